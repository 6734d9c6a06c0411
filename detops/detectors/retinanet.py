"""RetinaNet (https://arxiv.org/abs/1708.02002): one stage, every location of a pyramid, trained by the focal loss."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..heads.anchors import AnchorGenerator, CellSizes, check_levels
from ..heads.layers import DeltaLoss, Norm
from ..heads.retina import RetinaNetHead
from ..images import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from ..levels import Levels
from ..necks import Neck
from . import convert
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone, build_pyramid


def retinanet_resnet50_fpn(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """RetinaNet on ResNet-50 and FPN, levels of stride 8 to 128, as torchvision's of that name.

    Args:
        num_classes: Labels are 0 to ``num_classes`` - 1; there is no class for the background.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: FPN with two more levels.
        weights: State dict or file to load, detops' own or torchvision's.
        options: Of backbone and neck (:mod:`detops.detectors.parts`) and of :func:`retinanet`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (8, 16, 32), weights, options)
    pyramid = build_pyramid(neck, body, options, extra="p6p7")
    return convert.load_own(retinanet(body, pyramid, num_classes, **options), weights)


def retinanet_resnet50_fpn_v2(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """RetinaNet with group normalisation and GIoU loss (https://arxiv.org/abs/1912.02424), as torchvision's.

    Arguments as :func:`retinanet_resnet50_fpn`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (8, 16, 32), weights, options, frozen_batch_norm=False)
    pyramid = build_pyramid(neck, body, options, extra="c6p7")
    defaults: dict[str, Any] = {"norm_layer": partial(nn.GroupNorm, 32), "box_loss": "giou"}
    return convert.load_own(retinanet(body, pyramid, num_classes, **defaults | options), weights)


def mmdet_options(strides: Sequence[int]) -> dict[str, Any]:
    """What mmdet's RetinaNets have otherwise than torchvision's, as options of :func:`retinanet`.

    Anchors that are not rounded and as far apart as the strides say, and a hundred detections.

    Args:
        strides: Of the neck's levels.
    """
    sizes = [tuple(4 * stride * 2 ** (i / 3) for i in range(3)) for stride in strides]
    return {"anchors": AnchorGenerator(sizes, rounded=False, steps=strides), "detections_per_img": 100}


def retinanet(
    backbone: Levels,
    neck: Levels,
    num_classes: int,
    *,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    anchors: AnchorGenerator | None = None,
    anchor_sizes: CellSizes | None = None,
    norm_layer: Norm | None = None,
    box_loss: str | DeltaLoss = "l1",
    size_divisible: int = 32,
    **options: Any,
) -> Detector:
    """A RetinaNet from its parts; names and defaults of torchvision.

    Args:
        backbone: See :class:`detops.detectors.Detector`.
        neck: As well.
        num_classes: Labels are 0 to ``num_classes`` - 1.
        min_size: Pixels of the images' shorter side, see :class:`detops.images.ImageTransform`.
        max_size: Most pixels of the longer side.
        image_mean: Of each channel.
        image_std: Of each channel.
        anchors: One set for each level; None: three sizes from 32 and three shapes, doubled from level to level.
        anchor_sizes: Of each level the anchors' widths and heights, in pixels, in place of ``anchors``.
        norm_layer: Makes the normalisation behind the head's convolutions.
        box_loss: "l1", "giou" or a loss of the deltas.
        size_divisible: What height and width of a batch are padded to a multiple of.
        options: Further ones of :class:`detops.heads.retina.RetinaNetHead`: ``score_thresh``, ``nms_thresh``,
            ``detections_per_img``, ``fg_iou_thresh``, ``bg_iou_thresh``, ``topk_candidates`` and
            ``norm_per_level``.
    """
    if anchor_sizes is not None:
        check_levels(anchor_sizes, len(neck.strides))
        anchors = AnchorGenerator.of_sizes(anchor_sizes, anchors.steps if anchors else None)
    if anchors is None:
        sides = [32 * 2**i for i in range(len(neck.strides))]
        anchors = AnchorGenerator([(s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides])
    head = RetinaNetHead(neck.channels[0], num_classes, anchors, norm_layer, box_loss, **options)
    transform = ImageTransform(min_size, max_size, image_mean, image_std, size_divisible)
    return Detector(transform, backbone, neck, head)
