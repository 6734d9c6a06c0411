"""Faster R-CNN on PANet's pyramid (https://arxiv.org/abs/1803.01534): from coarse to fine and back."""

from functools import partial
from typing import Any

from ..necks import PAN, Neck
from ..necks import build as build_neck
from . import convert, faster_rcnn
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone


def fasterrcnn_resnet50_pafpn(
    num_classes: int = 81, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Faster R-CNN on ResNet-50 and a Path Aggregation Network, as mmdet's ``faster-rcnn_r50_pafpn_1x_coco``.

    Args:
        num_classes: With the background, which is class 0.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: PAN with one more level.
        weights: State dict or file to load, detops' own or mmdet's.
        options: Of the backbone (:mod:`detops.detectors.parts`), ``neck_channels``, and of
            :func:`detops.detectors.faster_rcnn.faster_rcnn`, whose defaults are mmdet's here
            (:func:`detops.detectors.faster_rcnn.mmdet_options`).
    """
    body = build_backbone(backbone, "torchvision/resnet50", (4, 8, 16, 32), weights, options)
    pyramid = build_neck(neck, partial(PAN, out_channels=options.pop("neck_channels", 256), extra="pool"), body)
    defaults = faster_rcnn.mmdet_options(pyramid.strides)
    return convert.load_own(faster_rcnn.faster_rcnn(body, pyramid, num_classes, **defaults | options), weights)
