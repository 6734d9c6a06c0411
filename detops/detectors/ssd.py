"""SSD (https://arxiv.org/abs/1512.02325): one stage, ever smaller maps, a fixed size of image."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from .. import backbones, necks
from ..heads.anchors import CellSizes, DefaultBoxes, check_levels
from ..heads.layers import initialise_normal
from ..heads.ssd import Predictor, SSDHead
from ..images import IMAGENET_MEAN, IMAGENET_STD, ImageTransform, Size
from ..levels import Levels
from ..necks import ExtraLevels, Neck, VGGExtraLevels
from . import convert
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone

_VGG_ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VGG_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
_VGG_STEPS = (8, 16, 32, 64, 100, 300)
_VGG_MEAN, _VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
_LITE_EXTRA = (512, 256, 256, 128)
_LITE_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


def ssd300_vgg16(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """SSD300 on VGG16, as torchvision's of that name.

    Args:
        num_classes: With the background, which is class 0.
        backbone: Name, see :func:`detops.backbones.build`, or module: its levels of stride 8, 16 and 32 and three
            smaller ones. None: torchvision's VGG16 with the paper's six levels.
        neck: Module, or what makes one for a backbone's channels and strides.
        weights: State dict or file to load, detops' own or torchvision's.
        options: Of the backbone (:func:`detops.detectors.parts.build_backbone`) and of :func:`ssd`.
    """
    if backbone is None:
        body = build_backbone(None, _vgg16, (), weights, options, frozen_stages=1, frozen_batch_norm=False)
        levels = necks.build(neck, VGGExtraLevels, body)
        defaults: dict[str, Any] = {"image_mean": _VGG_MEAN, "image_std": _VGG_STD}
        steps = _VGG_STEPS if neck is None and "size" not in options else None
    else:
        body = build_backbone(backbone, _vgg16, (8, 16, 32), weights, options)
        levels = necks.build(neck, ExtraLevels, body)
        defaults, steps = {}, None
    ratios = _VGG_ASPECT_RATIOS if len(levels.strides) == len(_VGG_ASPECT_RATIOS) else [(2, 3)] * len(levels.strides)
    scales = _VGG_SCALES if len(levels.strides) == len(_VGG_ASPECT_RATIOS) else None
    defaults["anchors"] = DefaultBoxes(ratios, scales=scales, steps=steps)
    return convert.load_own(ssd(body, levels, num_classes, **defaults | options), weights)


def ssdlite320_mobilenet_v3_large(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """SSDLite on MobileNetV3 (https://arxiv.org/abs/1801.04381, section 6.2), as torchvision's of that name.

    Args:
        num_classes: With the background, which is class 0.
        backbone: Name, see :func:`detops.backbones.build`, or module: its levels of stride 16 and 32 and four smaller
            ones. None: torchvision's MobileNetV3 with half as many channels in its last stage.
        neck: Module, or what makes one for a backbone's channels and strides.
        weights: State dict or file to load, detops' own or torchvision's.
        options: Of the backbone (:func:`detops.detectors.parts.build_backbone`) and of :func:`ssd`.
    """
    body = build_backbone(backbone, _mobilenet, (16, 32), weights, options, frozen_stages=0, frozen_batch_norm=False)
    levels = necks.build(neck, partial(ExtraLevels, out_channels=_LITE_EXTRA, block=_lite_level), body)
    defaults: dict[str, Any] = {
        "anchors": DefaultBoxes([(2, 3)] * len(levels.strides), min_ratio=0.2, max_ratio=0.95),
        "size": (320, 320),
        "predictor": _lite_predictor,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "score_thresh": 0.001,
        "nms_thresh": 0.55,
        "detections_per_img": 300,
        "topk_candidates": 300,
    }
    return convert.load_own(ssd(body, levels, num_classes, **defaults | options), weights)


def ssd(
    backbone: Levels,
    neck: Levels,
    num_classes: int,
    *,
    anchors: DefaultBoxes,
    anchor_sizes: CellSizes | None = None,
    size: Size = (300, 300),
    predictor: Predictor | None = None,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    **options: Any,
) -> Detector:
    """An SSD from its parts; names and defaults of torchvision.

    Args:
        backbone: See :class:`detops.detectors.Detector`.
        neck: As well.
        num_classes: With the background, which is class 0.
        anchors: Default boxes of each level.
        anchor_sizes: Of each level their widths and heights in place of those, as shares of the image's.
        size: Height and width that every image is resized to.
        predictor: Makes what predicts from a level; None: a 3×3 convolution.
        image_mean: Of each channel.
        image_std: Of each channel.
        options: Further ones of :class:`detops.heads.ssd.SSDHead`: ``score_thresh``, ``nms_thresh``,
            ``detections_per_img``, ``iou_thresh``, ``topk_candidates`` and ``positive_fraction``.
    """
    if anchor_sizes is not None:
        check_levels(anchor_sizes, len(neck.strides))
        anchors = DefaultBoxes.of_sizes(anchor_sizes, anchors.steps)
    head = SSDHead(neck.channels, num_classes, anchors, predictor, **options)
    transform = ImageTransform(
        image_mean=image_mean, image_std=image_std, size_divisible=1, fixed_size=(size[0], size[1])
    )
    return Detector(transform, backbone, neck, head)


def _vgg16(**options: Any) -> Levels:
    """VGG16 up to conv4_3 and conv5_3; its third pooling keeps the last row, so that 300 pixels give 38 × 38."""
    modules = backbones.torchvision_modules("vgg16", **options)
    pools = [name for name, module in modules.items() if isinstance(module, nn.MaxPool2d)]
    third = modules[pools[2]]
    assert isinstance(third, nn.MaxPool2d)
    third.ceil_mode = True
    return backbones.Stages(modules, [str(int(pool) - 1) for pool in pools[3:]])


def _mobilenet(pretrained: bool, **options: Any) -> Levels:
    """MobileNetV3 up to the widened input of its last stage and to its end."""
    modules = backbones.torchvision_modules(
        "mobilenet_v3_large", pretrained=pretrained, norm_layer=_LITE_NORM, reduced_tail=not pretrained, **options
    )
    split: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if name == "13":  # the first block of stride 32: 1×1 convolution, then the rest
            block = module.get_submodule("block")
            assert isinstance(block, nn.Sequential)
            split |= {"13_expand": block[0], "13_project": block[1:]}
        else:
            split[name] = module
    backbone = backbones.Stages(split, ("13_expand", "16"))
    if not pretrained:
        initialise_normal(backbone, std=0.03)
    return backbone


def _lite_level(in_channels: int, out_channels: int) -> nn.Module:
    """Half as large by depthwise separable convolutions."""
    middle = out_channels // 2
    level = nn.Sequential(
        _conv_norm(in_channels, middle, kernel_size=1),
        _conv_norm(middle, middle, kernel_size=3, stride=2, groups=middle),
        _conv_norm(middle, out_channels, kernel_size=1),
    )
    initialise_normal(level, std=0.03)
    return level


def _lite_predictor(in_channels: int, out_channels: int) -> nn.Module:
    predictor = nn.Sequential(
        _conv_norm(in_channels, in_channels, kernel_size=3, groups=in_channels),
        nn.Conv2d(in_channels, out_channels, kernel_size=1),
    )
    initialise_normal(predictor, std=0.03)
    return predictor


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    padding = kernel_size // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, _LITE_NORM(out_channels), nn.ReLU6(inplace=True))
