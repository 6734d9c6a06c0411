"""RetinaNet on a pyramid that was searched for (https://arxiv.org/abs/1904.07392)."""

from functools import partial
from typing import Any

from torch import nn

from ..necks import NASFPN, Neck
from ..necks import build as build_neck
from . import convert, retinanet
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone


def retinanet_resnet50_nasfpn(
    num_classes: int = 80, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """RetinaNet on ResNet-50 and NAS-FPN (7 @ 256), as mmdet's ``retinanet_r50_nasfpn_crop640-50e_coco``.

    Images of at most 640 pixels, padded to a multiple of 128; a head that normalises each level by itself.

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1; there is no class for the background.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: NAS-FPN, the cells seven times.
        weights: State dict or file to load, detops' own or mmdet's.
        options: Of the backbone (:mod:`detops.detectors.parts`), ``neck_channels``, and of
            :func:`detops.detectors.retinanet.retinanet`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (8, 16, 32), weights, options, frozen_batch_norm=False)
    pyramid = build_neck(neck, partial(NASFPN, out_channels=options.pop("neck_channels", 256)), body)
    defaults = retinanet.mmdet_options(pyramid.strides) | {
        "norm_layer": nn.BatchNorm2d,
        "norm_per_level": True,
        "bg_iou_thresh": 0.5,
        "min_size": 640,
        "max_size": 640,
        "size_divisible": 128,
    }
    return convert.load_own(retinanet.retinanet(body, pyramid, num_classes, **defaults | options), weights)
