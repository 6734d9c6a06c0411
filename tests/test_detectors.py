"""Detectors as their users meet them: training on awkward targets, autocast, fixed sizes, export, weights."""

import io
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detops import detectors
from detops.backbones import Stages
from detops.detectors import Detector
from detops.necks import FPN, NASFPN, PAN, BalancedPyramid

# Two stages, one stage, and one of a fixed size of image; on a backbone of two layers.
_TWO_STAGES = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 50, "box_score_thresh": 0}
_ONE_STAGE = {"min_size": 64, "max_size": 96, "score_thresh": 0.0}
SMALL: dict[str, dict[str, object]] = {
    "fasterrcnn_resnet50_fpn": _TWO_STAGES,
    "retinanet_resnet50_fpn": _ONE_STAGE,
    "ssd300_vgg16": {},
    "fasterrcnn_vgg16": _TWO_STAGES,
    "fasterrcnn_resnet50_pafpn": _TWO_STAGES | {"neck_channels": 16, "representation": 32},
    "libra_fasterrcnn_resnet50_fpn": _TWO_STAGES | {"neck_channels": 16, "representation": 32},
    "libra_retinanet_resnet50_fpn": _ONE_STAGE | {"neck_channels": 16},
    "retinanet_resnet50_nasfpn": _ONE_STAGE | {"neck_channels": 16},
}
PARAMETERS = {  # of mmdet's, for 80 classes
    "fasterrcnn_resnet50_pafpn": 45_293_536,
    "libra_fasterrcnn_resnet50_fpn": 42_016_224,
    "libra_retinanet_resnet50_fpn": 38_231_860,
    "retinanet_resnet50_nasfpn": 59_979_828,
}
IMAGES = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0)), torch.rand(3, 90, 60)]


def _backbone(strides: tuple[int, ...]) -> nn.Module:
    layers: dict[str, nn.Module] = {}
    channels, stride = 3, 1
    for i, wanted in enumerate(strides):
        step = wanted // stride
        layers[f"{i}"] = nn.Sequential(nn.Conv2d(channels, 8, 2 * step + 1, stride=step, padding=step), nn.ReLU())
        channels, stride = 8, wanted
    return Stages(layers, list(layers))


def _model(name: str, **options: object) -> Detector:
    from_eighth = "retinanet" in name or name == "ssd300_vgg16"
    strides = (8, 16, 32) if from_eighth else (16,) if name == "fasterrcnn_vgg16" else (4, 8, 16, 32)
    necks = {
        "retinanet_resnet50_fpn": partial(FPN, out_channels=16, extra="p6p7"),
        "fasterrcnn_resnet50_fpn": partial(FPN, out_channels=16, extra="pool"),
    }
    torch.manual_seed(0)
    parts = {"backbone": _backbone(strides), "neck": necks.get(name)}
    model = detectors.build(name, num_classes=4, **parts | SMALL[name] | options)
    for module in model.head.modules():  # scores that differ
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.05)
    return model


def _target(boxes: list[list[float]]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
    }


CROWD = [[float(x), float(y), x + 9.0, y + 7.0] for x in range(0, 60, 4) for y in range(0, 56, 4)]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "boxes", [[], [[8.0, 8, 40, 50]], CROWD, [[-50.0, -30, 200, 300], [70, 55, 500, 500]], [[1.0, 1, 1.001, 1.001]]]
)
def test_trains_on_awkward_targets(name: str, boxes: list[list[float]]) -> None:
    model = _model(name).train()
    for targets in ([_target(boxes), _target([])], [_target([[4.0, 4, 30, 30]]), _target(boxes)]):
        losses = model(IMAGES, targets)
        assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
        sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SMALL)
def test_names_image_and_box_without_area(name: str) -> None:
    model = _model(name).train()
    with pytest.raises(ValueError, match=r"targets\[1\] .* got box 2 \[5.0, 5.0, 5.0, 9.0\]"):
        model(IMAGES, [_target([]), _target([[0, 0, 4, 4], [1, 1, 2, 2], [5, 5, 5, 9]])])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    model = _model(name)
    with torch.autocast("cpu", dtype=dtype):
        losses = model.train()(IMAGES, [_target([[8, 8, 40, 50]]), _target([])])
        sum(losses.values()).backward()
        with torch.no_grad():
            found = model.eval()(IMAGES)
    assert all(loss.isfinite() for loss in losses.values())
    for image in found:
        assert image["boxes"].dtype == torch.float32  # coordinates are not rounded to whole pixels
        assert len(image["boxes"]) > 0 and image["boxes"].isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_finds_nothing_without_failing(name: str) -> None:
    threshold = "box_score_thresh" if "faster" in name else "score_thresh"
    with torch.no_grad():
        for image in _model(name, **{threshold: 1.0}).eval()(IMAGES):
            assert (image["boxes"].shape, image["scores"].shape, image["labels"].shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_vgg16", "libra_fasterrcnn_resnet50_fpn"])
def test_without_proposals(name: str) -> None:
    model = _model(name, rpn_score_thresh=1.1)
    with torch.no_grad():
        assert [len(image["boxes"]) for image in model.eval()(IMAGES)] == [0, 0]
    losses = model.train()(IMAGES, [_target([]), _target([])])
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", SMALL)
def test_scores_have_gradients_in_evaluation(name: str) -> None:
    model = _model(name).eval()
    found = model(IMAGES)
    assert all(len(image["scores"]) for image in found)
    sum(image["scores"].sum() for image in found).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_fixed_size_finds_the_same(name: str) -> None:
    model = _model(name).eval()
    with torch.no_grad():
        found, (boxes, scores, labels, number) = model(IMAGES), model.export_ready()(IMAGES)
    assert boxes.shape[:2] == scores.shape == labels.shape
    for i, image in enumerate(found):
        n = int(number[i])
        assert n == len(image["boxes"]) > 2
        torch.testing.assert_close(boxes[i, :n], image["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(scores[i, :n], image["scores"])
        assert labels[i, :n].equal(image["labels"])


def test_fixed_size_is_for_evaluation() -> None:
    ready = _model("retinanet_resnet50_fpn").export_ready()
    assert not ready.detector.training
    with pytest.raises(ValueError, match="expected evaluation mode"):
        ready.train()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_export(name: str) -> None:
    ready = _model(name).export_ready()
    images, others = torch.rand(2, 3, 64, 80), torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        program = torch.export.export(ready, (images,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (images, others):
        with torch.no_grad():
            wanted, found = ready(batch), loaded(batch)
        assert (wanted[3] > 0).all()
        torch.testing.assert_close(tuple(found), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16"])
def test_compile(name: str) -> None:
    model = _model(name).eval()
    first_stage = model.head.rpn if name.startswith("faster") else model.head

    def network(images: Tensor) -> object:
        return first_stage(model.neck(model.backbone(images)))

    images = torch.rand(2, 3, 300, 300) if name.startswith("ssd") else torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            tuple(torch.compile(network, fullgraph=True)(images)), tuple(network(images)), rtol=1e-4, atol=1e-5
        )


def test_compiled_with_everything_behind_the_network() -> None:
    model = _model("retinanet_resnet50_fpn").export_ready()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
        torch.testing.assert_close(tuple(found), model(images))


def test_trains_what_it_is_shown() -> None:
    model = _model("retinanet_resnet50_fpn", score_thresh=0.3).train()
    image = torch.zeros(3, 64, 64)
    image[:, 16:48, 16:48] = 1
    target = _target([[16, 16, 48, 48]])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(100):
        optimiser.zero_grad()
        sum(model([image], [target]).values()).backward()
        optimiser.step()
    with torch.no_grad():
        found = model.eval()([image])[0]
    assert found["labels"][0] == 1
    torch.testing.assert_close(found["boxes"][0], target["boxes"][0], rtol=0, atol=3)


def test_neck_of_ones_own() -> None:
    class Twice(nn.Module):
        def __init__(self, channels: list[int], strides: list[int]) -> None:
            super().__init__()
            self.channels, self.strides = channels, strides

        def forward(self, features: list[Tensor]) -> list[Tensor]:
            return [2 * feature for feature in features]

    for neck in (Twice, Twice([8] * 3, [8, 16, 32])):
        with torch.no_grad():
            assert len(_model("retinanet_resnet50_fpn", neck=neck).eval()(IMAGES)) == 2
    with pytest.raises(ValueError, match="a neck with channels and strides, got Identity"):
        _model("retinanet_resnet50_fpn", neck=nn.Identity())


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_published(name: str) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in detectors.build(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("neck", [FPN, PAN, NASFPN, lambda *levels: BalancedPyramid(FPN(*levels))])
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "libra_retinanet_resnet50_fpn"])
def test_any_neck(name: str, neck: Callable[[list[int], list[int]], nn.Module]) -> None:
    smaller = {"representation": 32} if name.startswith("faster") else {}
    model = _model(name, neck=neck, **smaller).train()
    losses = model(IMAGES, [_target([[8, 8, 40, 50]]), _target([])])
    sum(losses.values()).backward()
    untrained = [key for key, parameter in model.neck.named_parameters() if parameter.grad is None]
    assert len(untrained) == 0
    with torch.no_grad():
        assert all(len(image["boxes"]) for image in model.eval()(IMAGES))


def test_mmdets_weights_by_the_names_of_mmdet() -> None:
    model = _model("libra_retinanet_resnet50_fpn")
    theirs = {}
    for key, value in model.state_dict().items():
        for ours, name in _OF_MMDET.items():
            key = re.sub(f"^{ours}", name, key)
        theirs[key] = value
    assert {key.split(".")[0] for key in theirs} == {"backbone", "neck", "bbox_head"}
    other = _model("libra_retinanet_resnet50_fpn")
    loaded = detectors.convert.load_own(other, {key: value + 1 for key, value in theirs.items()})
    assert all(loaded.state_dict()[key].equal(value + 1) for key, value in model.state_dict().items())


_OF_MMDET = {
    r"neck\.pyramid\.inner_blocks\.(\d)\.0\.": r"neck.0.lateral_convs.\1.conv.",
    r"neck\.pyramid\.layer_blocks\.(\d)\.0\.": r"neck.0.fpn_convs.\1.conv.",
    r"neck\.pyramid\.extra_blocks\.p6\.": "neck.0.fpn_convs.3.conv.",
    r"neck\.pyramid\.extra_blocks\.p7\.": "neck.0.fpn_convs.4.conv.",
    r"neck\.refine\.query\.": "neck.1.refine.theta.conv.",
    r"neck\.refine\.key\.": "neck.1.refine.phi.conv.",
    r"neck\.refine\.value\.": "neck.1.refine.g.conv.",
    r"neck\.refine\.out\.": "neck.1.refine.conv_out.conv.",
    r"head\.classification\.conv\.(\d)\.0\.": r"bbox_head.cls_convs.\1.conv.",
    r"head\.regression\.conv\.(\d)\.0\.": r"bbox_head.reg_convs.\1.conv.",
    r"head\.classification\.predictor\.": "bbox_head.retina_cls.",
    r"head\.regression\.predictor\.": "bbox_head.retina_reg.",
}


def test_names_and_wrong_names() -> None:
    assert set(SMALL) < set(detectors.names())
    assert all(callable(getattr(detectors, name)) for name in detectors.names())
    with pytest.raises(ValueError, match=r"expected a detector of .*, got 'yolo9000'"):
        detectors.build("yolo9000")
    with pytest.raises(TypeError, match="scor_thresh"):
        _model("retinanet_resnet50_fpn", scor_thresh=0.5)


def _saved_as_torch(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"model": state, "epoch": 3}, folder / "weights.pth")
    return folder / "weights.pth"


def _saved_as_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    safetensors = pytest.importorskip("safetensors.torch", reason="reads safetensors files")
    safetensors.save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.mark.parametrize("save", [_saved_as_torch, _saved_as_safetensors])
def test_own_weights_from_a_file(save: Callable[[dict[str, Tensor], Path], Path], tmp_path: Path) -> None:
    saved = _model("retinanet_resnet50_fpn")
    path = save(saved.state_dict(), tmp_path)
    for weights in (path, str(path), saved.state_dict()):
        model = _model("retinanet_resnet50_fpn", weights=weights)
        assert all(value.equal(model.state_dict()[key]) for key, value in saved.state_dict().items())


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = _model("retinanet_resnet50_fpn")
    state = model.state_dict()
    load = detectors.convert.load
    short = {key: value for key, value in state.items() if "predictor" not in key}
    with pytest.raises(ValueError, match=r"they lack head.classification.predictor.weight.* and 1 more"):
        load(model, short, "detops")
    with pytest.raises(ValueError, match="they have the unknown surplus"):
        load(model, state | {"surplus": torch.zeros(1)}, "detops")
    with pytest.raises(ValueError, match=r"neck.layer_blocks.0.0.bias of shape \(16,\), got \(3,\)"):
        load(model, state | {"neck.layer_blocks.0.0.bias": torch.zeros(3)}, "detops")
    with pytest.raises(ValueError, match="source of torchvision, mmdet, detops, got 'caffe'"):
        load(model, state, "caffe")
    with pytest.raises(ValueError, match="a detector that torchvision has, got Linear"):
        load(nn.Linear(1, 1), {})
    with pytest.raises(ValueError, match="a neck that mmdet has, got NoneType"):
        load(nn.Linear(1, 1), {}, "mmdet")
    with pytest.raises(ValueError, match="a head that mmdet has, got SSDHead"):
        load(_model("ssd300_vgg16", neck=FPN([8] * 3, [8, 16, 32])), {}, "mmdet")
    assert all(value.equal(state[key]) for key, value in model.state_dict().items())


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a file has run",)


def test_files_run_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"evil.pth": pickle.dumps(_Evil(), protocol=2), "broken.pth": b"PK\x03\x04 no archive", "empty.pth": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"expected weights in .*{name}"):
            detectors.convert.read(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"expected a state dict in .*list.pth, got list"):
        detectors.convert.read(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth"):
        detectors.convert.read(tmp_path / "nowhere.pth")
    assert "has run" not in capsys.readouterr().out
