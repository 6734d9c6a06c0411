"""mmdet's own detectors, unmodified, on detops: as with torchvision's operators and plain PyTorch in its place.

Weights are random, images small, proposals few; all else is as in the configuration files that come with mmdet.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv_stand_in
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detops.compat import mmcv as compat
from detops.compat.mmcv import _ext

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # of packages from before this torch
    pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="needs mmdet: pip install '.[peers]'"),
]

REGIONS = {"nms", "roi_align_forward", "roi_align_backward"}
DEFORMABLE = {"deform_conv_forward", "deform_conv_backward_input", "deform_conv_backward_parameters"}
MODULATED = {"modulated_deform_conv_forward", "modulated_deform_conv_backward"}
ON_A_GPU = frozenset(
    {"ms_deform_attn_forward", "ms_deform_attn_backward", "sigmoid_focal_loss_forward", "sigmoid_focal_loss_backward"}
)
# What each configuration calls of mmcv._ext, on the CPU.
MODELS: dict[str, set[str]] = {
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": REGIONS,
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": REGIONS,
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py": REGIONS,
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py": REGIONS,
    "retinanet/retinanet_r50_fpn_1x_coco.py": {"nms"},
    "libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py": {"nms"},
    "ssd/ssd300_coco.py": {"nms"},
    "yolo/yolov3_d53_8xb8-320-273e_coco.py": {"nms"},
    "yolox/yolox_s_8xb8-300e_coco.py": {"nms"},
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": {"nms"},
    "atss/atss_r50_fpn_1x_coco.py": {"nms"},
    "gfl/gfl_r50_fpn_1x_coco.py": {"nms"},
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py": REGIONS | DEFORMABLE,
    "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py": REGIONS | MODULATED,
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py": set(),
    "groie/faste-rcnn_r50_fpn_groie_1x_coco.py": REGIONS,
    "nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py": {"nms"},
    "pafpn/faster-rcnn_r50_pafpn_1x_coco.py": REGIONS,
    "carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py": REGIONS | {"carafe_forward", "carafe_backward"},
}
FEW = {"score_thr": 0.0, "nms_pre": 100, "max_per_img": 20, "num": 32, "num_queries": 30}


@pytest.fixture(scope="module")
def configurations() -> Path:
    assert compat.install()
    import mmdet
    from mmdet.utils import register_all_modules

    register_all_modules()
    return Path(mmdet.__file__).parent / ".mim" / "configs"


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> "Functions":
    return Functions(monkeypatch)


class Functions:
    """What ``mmcv._ext`` offers: that of detops, or the stand-ins. Remembers what was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.ours = {name: item for name, item in vars(_ext).items() if inspect.isfunction(item) and name[0] != "_"}
        self.called: set[str] = set()

    def use(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.called = set()
        for name in self.ours:
            self.monkeypatch.setattr(_ext, name, self._recording(name, functions.get(name)))

    def _recording(self, name: str, function: Callable[..., Any] | None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert function is not None, f"the stand-in has no {name}"
            self.called.add(name)
            return function(*args, **kwargs)

        return call


def build(path: Path, **options: Any) -> Any:
    """A model of a configuration file, with options such as ``test_cfg__rcnn__nms``."""
    from mmdet import registry
    from mmengine.config import Config

    file = Config.fromfile(path)
    file.merge_from_dict({f"model.{name.replace('__', '.')}": value for name, value in options.items()})
    config = file.model
    config.data_preprocessor.pop("batch_augments", None)
    make_small(config)
    torch.manual_seed(0)
    model = registry.MODELS.build(config)
    model.init_weights()
    if path.parent.name == "ssd":
        model.bbox_head.loss_cls = None  # mmdetection#11780: mmdet 3.3.0 looks at it, and SSD has none
    return model


def make_small(config: Any) -> None:
    if isinstance(config, dict):
        if config.get("init_cfg", {}).get("type") == "Pretrained":
            config["init_cfg"] = None
        for key, value in config.items():
            if key in FEW and isinstance(value, int | float):
                config[key] = FEW[key]
            make_small(value)
    elif isinstance(config, list):
        for item in config:
            make_small(item)


def batch(size: int) -> dict[str, Any]:
    """Two images with two objects each, boxes and masks."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(1)
    samples = []
    for shift in (0, 5):
        boxes = torch.tensor([[3.0, 4, 40, 50], [20, 15, 60, 45]]) + shift
        masks = np.zeros((2, size, size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo={"img_shape": (size,) * 2, "ori_shape": (size,) * 2, "scale_factor": (1.0, 1.0)}
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([1, 5]), masks=BitmapMasks(masks, size, size)
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        samples.append(sample)
    images = [torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8) for _ in samples]
    return {"inputs": images, "data_samples": samples}


def step_and_predict(model: Any, size: int) -> dict[str, Tensor]:
    """Losses and gradients of one training step, and what the model predicts after it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (mmdet's samplers draw from it)
    model.train()
    losses = model(**model.data_preprocessor(batch(size), True), mode="loss")
    flat = {f"{name}[{i}]": part for name, item in losses.items() for i, part in enumerate(listed(item))}
    sum(value for name, value in flat.items() if "loss" in name).backward()
    found = {name: value.detach() for name, value in flat.items()}
    found |= {f"d {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.optim.SGD(model.parameters(), lr=1e-4).step()

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch(size), False), mode="predict")
    for i, result in enumerate(results):
        found |= {f"{name} of image {i}": torch.as_tensor(value) for name, value in result.pred_instances.items()}
    return found


def listed(item: Any) -> list[Tensor]:
    return list(item) if isinstance(item, list | tuple) else [item]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To float32's accuracy; gradients and masks as a whole, where one value may lie at the edge of a ReLU or mask."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.isfinite().all(), name
        if name.startswith("d "):
            assert (found[name] - value).norm() <= 1e-3 * value.norm(), name
        elif value.dtype == torch.bool:
            assert (found[name] != value).double().mean() <= 1e-3, name
        else:
            assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("configuration", MODELS)
def test_detector(configurations: Path, functions: Functions, configuration: str) -> None:
    model = build(configurations / configuration)
    compare(model, functions, MODELS[configuration], size=300 if configuration.startswith("ssd") else 64)


def test_soft_nms(configurations: Path, functions: Functions) -> None:
    suppression = {"_delete_": True, "type": "soft_nms", "iou_threshold": 0.5, "min_score": 0.0}
    configuration = configurations / "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    compare(build(configuration, test_cfg__rcnn__nms=suppression), functions, REGIONS | {"softnms"})


def test_what_only_a_gpu_calls(configurations: Path, functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU mmdet computes attention and focal loss in PyTorch: here with both made to take the other way."""
    from mmcv.ops import multi_scale_deform_attn as attention
    from mmdet.models.losses import focal_loss

    def attend(value: Tensor, sizes: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        areas = sizes.prod(1)
        starts = areas.cumsum(0) - areas
        return attention.MultiScaleDeformableAttnFunction.apply(value, sizes, starts, places, weights, 64)

    def focal(logits: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with_background = torch.cat([targets, 1 - targets.sum(1, keepdim=True)], dim=1)
        return focal_loss.sigmoid_focal_loss(logits, with_background.argmax(1), *args, **kwargs)

    def take_the_other_way() -> None:
        monkeypatch.setattr(attention, "multi_scale_deformable_attn_pytorch", attend)
        monkeypatch.setattr(focal_loss, "py_sigmoid_focal_loss", focal)

    model = build(configurations / "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
    compare(model, functions, set(), more=ON_A_GPU, between=take_the_other_way)


def compare(
    model: Any,
    functions: Functions,
    called: set[str],
    *,
    size: int = 64,
    more: frozenset[str] = frozenset(),
    between: Callable[[], None] = lambda: None,
) -> None:
    """A model on the stand-ins, then on detops; ``more`` is called there after what is done ``between``."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    functions.use(mmcv_stand_in.FUNCTIONS)
    expected = step_and_predict(model, size)
    assert functions.called == called
    assert expected["bboxes of image 0"].shape[0] > 5
    assert sum(name.startswith("d ") for name in expected) > 20

    model.load_state_dict(state)
    model.zero_grad()
    between()
    functions.use(functions.ours)
    found = step_and_predict(model, size)
    assert functions.called == called | more
    assert_same(found, expected)
