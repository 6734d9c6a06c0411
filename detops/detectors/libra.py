"""Libra R-CNN (https://arxiv.org/abs/1904.02701): what training sees, features and losses, each in balance."""

from functools import partial
from typing import Any

from ..heads.sampling import sample_libra
from ..necks import FPN, BalancedPyramid, Neck
from ..necks import build as build_neck
from ..ops import balanced_l1_loss
from . import convert, faster_rcnn, retinanet
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone


def libra_fasterrcnn_resnet50_fpn(
    num_classes: int = 81, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Libra R-CNN on Faster R-CNN with ResNet-50 and FPN, as mmdet's ``libra-faster-rcnn_r50_fpn_1x_coco``.

    A balanced feature pyramid, :func:`detops.heads.sampling.sample_libra` and the balanced L1 loss; else as mmdet's
    Faster R-CNN (:func:`detops.detectors.faster_rcnn.mmdet_options`).

    Args:
        num_classes: With the background, which is class 0.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: FPN with one more level, balanced.
        weights: State dict or file to load, detops' own or mmdet's.
        options: Of the backbone (:mod:`detops.detectors.parts`), ``neck_channels``, and of
            :func:`detops.detectors.faster_rcnn.faster_rcnn`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (4, 8, 16, 32), weights, options)
    pyramid = build_neck(neck, partial(_balanced_fpn, options.pop("neck_channels", 256), "pool", 2), body)
    defaults = faster_rcnn.mmdet_options(pyramid.strides) | {
        "rpn_negatives_per_positive": 5.0,
        "box_sampler": sample_libra,
        "box_delta_loss": partial(balanced_l1_loss, reduction="sum"),
    }
    return convert.load_own(faster_rcnn.faster_rcnn(body, pyramid, num_classes, **defaults | options), weights)


def libra_retinanet_resnet50_fpn(
    num_classes: int = 80, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Libra RetinaNet on ResNet-50 and FPN, as mmdet's ``libra-retinanet_r50_fpn_1x_coco``.

    A balanced feature pyramid and the balanced L1 loss; else as mmdet's RetinaNet
    (:func:`detops.detectors.retinanet.mmdet_options`).

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1; there is no class for the background.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: FPN with two more levels, balanced.
        weights: State dict or file to load, detops' own or mmdet's.
        options: Of the backbone (:mod:`detops.detectors.parts`), ``neck_channels``, and of
            :func:`detops.detectors.retinanet.retinanet`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (8, 16, 32), weights, options)
    pyramid = build_neck(neck, partial(_balanced_fpn, options.pop("neck_channels", 256), "c6p7_linear", 1), body)
    box_loss = partial(balanced_l1_loss, beta=0.11, reduction="sum")
    defaults = retinanet.mmdet_options(pyramid.strides) | {"box_loss": box_loss}
    return convert.load_own(retinanet.retinanet(body, pyramid, num_classes, **defaults | options), weights)


def _balanced_fpn(
    out_channels: int, extra: str, refine_level: int, channels: list[int], strides: list[int]
) -> BalancedPyramid:
    return BalancedPyramid(FPN(channels, strides, out_channels, extra), refine_level)
