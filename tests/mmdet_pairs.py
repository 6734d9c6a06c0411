"""mmdet's detector beside ours, with the same weights."""

from pathlib import Path
from typing import Any

import detector_pairs
import torch
from torch import Tensor, nn

from detops import detectors, necks
from detops.compat import mmcv as compat
from detops.detectors import Detector, faster_rcnn, retinanet
from detops.images import ImageBatch

OBJECTS = 7  # classes
CONFIGURATIONS = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "fasterrcnn_resnet50_pafpn": "pafpn/faster-rcnn_r50_pafpn_1x_coco.py",
    "libra_fasterrcnn_resnet50_fpn": "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
    "libra_retinanet_resnet50_fpn": "libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py",
    "retinanet_resnet50_fpn": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "retinanet_resnet50_nasfpn": "nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py",
}
# Few proposals, and all anchors and regions in the losses: no random draws.
_ALL = 1_000_000
_THEIR_RCNN = {
    "roi_head.bbox_head.num_classes": OBJECTS,
    "train_cfg.rpn.sampler.num": _ALL,
    "train_cfg.rpn.sampler.neg_pos_ub": -1,
    "train_cfg.rcnn.sampler.num": _ALL,
    "train_cfg.rpn_proposal.max_per_img": 12,
    "test_cfg.rpn.max_per_img": 60,
}
_OUR_RCNN = {
    "rpn_batch_size_per_image": _ALL,
    "rpn_negatives_per_positive": None,
    "box_batch_size_per_image": _ALL,
    "rpn_post_nms_top_n_train": 12,
    "rpn_post_nms_top_n_test": 60,
}
_THEIR_RETINA = {"bbox_head.num_classes": OBJECTS, "test_cfg.score_thr": 0.008}
_OUR_RETINA = {"score_thresh": 0.008}


def pair(name: str) -> tuple[nn.Module, Detector]:
    """Both, mmdet's first, in evaluation mode."""
    two_stages = "faster" in name
    torch.manual_seed(0)
    reference = _theirs(CONFIGURATIONS[name], _THEIR_RCNN if two_stages else _THEIR_RETINA)
    detector_pairs.disturb(reference)
    options = _mmdets(name) | (_OUR_RCNN if two_stages else _OUR_RETINA)
    ours = detectors.build(name, num_classes=detectors.num_classes(name, OBJECTS), min_size=None, **options)
    return reference.eval(), detectors.convert.load(ours, reference.state_dict(), "mmdet").eval()


def samples(batch: ImageBatch, targets: list[dict[str, Tensor]], first_label: int) -> list[Any]:
    """Of a batch what mmdet calls data samples, their labels from 0."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    whole = tuple(batch.tensors.shape[-2:])
    found = []
    for size, target in zip(batch.sizes, targets, strict=True):
        shapes = {"img_shape": size, "ori_shape": size, "pad_shape": whole, "batch_input_shape": whole}
        sample = DetDataSample(metainfo=shapes | {"scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(bboxes=target["boxes"], labels=target["labels"] - first_label)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        found.append(sample)
    return found


def _mmdets(name: str) -> dict[str, Any]:
    """What makes our detectors of torchvision mmdet's."""
    if name == "fasterrcnn_resnet50_fpn":
        return faster_rcnn.mmdet_options((4, 8, 16, 32, 64))
    if name == "retinanet_resnet50_fpn":
        neck = necks.FPN([512, 1024, 2048], [8, 16, 32], extra="c6p7_linear")
        return {"neck": neck, **retinanet.mmdet_options(neck.strides)}
    return {}


def _theirs(configuration: str, options: dict[str, Any]) -> nn.Module:
    assert compat.install()
    import mmdet
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    file = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / configuration)
    file.merge_from_dict({f"model.{key}": value for key, value in options.items()})
    file.model.backbone.init_cfg = None
    file.model.data_preprocessor.pop("batch_augments", None)
    model = mmdet.registry.MODELS.build(file.model)
    model.init_weights()
    return model
