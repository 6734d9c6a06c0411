"""Faster R-CNN (https://arxiv.org/abs/1506.01497): one network proposes regions, another classifies them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from .. import backbones, necks
from ..heads.anchors import AnchorGenerator, CellSizes, check_levels
from ..heads.layers import L1, DeltaLoss
from ..heads.roi import BOX_WEIGHTS, PyramidRoIAlign, RoIHead, SingleRoIPool, TwoStageHead, convolutions, two_layers
from ..heads.rpn import DELTA_LOSS, RPN
from ..heads.sampling import Sampler, sample_at_random
from ..images import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from ..levels import Levels
from ..necks import Neck, NoNeck
from . import convert
from .convert import Weights
from .detector import Detector
from .parts import Backbone, build_backbone, build_pyramid

_ASPECT_RATIOS = ((0.5, 1.0, 2.0),)
_SIZES = (32, 64, 128, 256, 512)

# Both levels have stride 32: the last stage's first block and its end.
_mobilenet = partial(
    backbones.torchvision_backbone, "mobilenet_v3_large", outputs=("13", "16"), norm_layer=nn.BatchNorm2d
)


def fasterrcnn_resnet50_fpn(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Faster R-CNN on a Feature Pyramid Network (https://arxiv.org/abs/1612.03144), as torchvision's of that name.

    Args:
        num_classes: With the background, which is class 0.
        backbone: Name, see :func:`detops.backbones.build`, or module; None: torchvision's ResNet-50.
        neck: Module, or what makes one for a backbone's channels and strides; None: FPN with one more level.
        weights: State dict or file to load, detops' own or torchvision's.
        options: Of backbone and neck (:mod:`detops.detectors.parts`) and of :func:`faster_rcnn`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (4, 8, 16, 32), weights, options)
    pyramid = build_pyramid(neck, body, options, extra="pool")
    return convert.load_own(faster_rcnn(body, pyramid, num_classes, **options), weights)


def fasterrcnn_resnet50_fpn_v2(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Faster R-CNN with deeper, normalised heads (https://arxiv.org/abs/2111.11429), as torchvision's of that name.

    Arguments as :func:`fasterrcnn_resnet50_fpn`.
    """
    body = build_backbone(backbone, "torchvision/resnet50", (4, 8, 16, 32), weights, options, frozen_batch_norm=False)
    pyramid = build_pyramid(neck, body, options, extra="pool", norm_layer=nn.BatchNorm2d)
    box_head = convolutions(pyramid.channels[0], 7, (256, 256, 256, 256), 1024, nn.BatchNorm2d)
    defaults: dict[str, Any] = {"rpn_conv_depth": 2, "box_head": box_head, "representation": 1024}
    return convert.load_own(faster_rcnn(body, pyramid, num_classes, **defaults | options), weights)


def fasterrcnn_mobilenet_v3_large_fpn(
    num_classes: int = 91, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Faster R-CNN on the last stage of MobileNetV3 (https://arxiv.org/abs/1905.02244), as torchvision's of that name.

    Arguments as :func:`fasterrcnn_resnet50_fpn`.
    """
    body = build_backbone(backbone, _mobilenet, (16, 32), weights, options, frozen_stages=3)
    pyramid = build_pyramid(neck, body, options, extra="pool")
    defaults: dict[str, Any] = {
        "anchors": AnchorGenerator([_SIZES] * len(pyramid.strides), _ASPECT_RATIOS),
        "rpn_score_thresh": 0.05,
    }
    return convert.load_own(faster_rcnn(body, pyramid, num_classes, **defaults | options), weights)


def fasterrcnn_vgg16(
    num_classes: int = 21, backbone: Backbone = None, neck: Neck | None = None, weights: Weights = None, **options: Any
) -> Detector:
    """Faster R-CNN as published: one level of stride 16, RoI max pooling, two layers of 4,096 as in VGG16.

    https://arxiv.org/abs/1506.01497, sections 3 and 4: nine anchors, shorter side 600, at most 300 proposals.
    Other arguments as :func:`fasterrcnn_resnet50_fpn`.

    Args:
        num_classes: With the background; 21 for PASCAL VOC.
        backbone: None: torchvision's VGG16 up to conv5_3.
        neck: None: the last level of the backbone as it is.
        weights: State dict or file.
        options: Of the backbone and of :func:`faster_rcnn`.
    """
    body = build_backbone(backbone, "torchvision/vgg16", (16,), weights, options, frozen_batch_norm=False)
    features = necks.build(neck, NoNeck, body)
    defaults: dict[str, Any] = {
        "anchors": AnchorGenerator([(128, 256, 512)], _ASPECT_RATIOS),
        "pool": SingleRoIPool(features.strides[0]),
        "box_head": two_layers(features.channels[0] * 7**2, 4096),
        "representation": 4096,
        "min_size": 600,
        "max_size": 1000,
        "rpn_pre_nms_top_n_train": 12000,
        "rpn_pre_nms_top_n_test": 6000,
        "rpn_post_nms_top_n_test": 300,
        "box_batch_size_per_image": 128,
        "box_nms_thresh": 0.3,
    }
    return convert.load_own(faster_rcnn(body, features, num_classes, **defaults | options), weights)


def mmdet_options(strides: Sequence[int]) -> dict[str, Any]:
    """What mmdet's Faster R-CNNs have otherwise than torchvision's, as options of :func:`faster_rcnn`.

    Anchors that are not rounded and as far apart as the strides say, RoIAlign with features in the middle of their
    pixels and as many samples as a bin has features, L1 losses, half as many proposals in training, no deltas of the
    background.

    Args:
        strides: Of the neck's levels.
    """
    sizes = [(8 * stride,) for stride in strides]
    return {
        "anchors": AnchorGenerator(sizes, _ASPECT_RATIOS, rounded=False, steps=strides),
        "pool": PyramidRoIAlign(strides, sampling_ratio=0, aligned=True),
        "rpn_post_nms_top_n_train": 1000,
        "rpn_delta_loss": L1,
        "box_delta_loss": L1,
        "box_background_deltas": False,
    }


def faster_rcnn(
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
    rpn_conv_depth: int = 1,
    rpn_pre_nms_top_n_train: int = 2000,
    rpn_pre_nms_top_n_test: int = 1000,
    rpn_post_nms_top_n_train: int = 2000,
    rpn_post_nms_top_n_test: int = 1000,
    rpn_nms_thresh: float = 0.7,
    rpn_fg_iou_thresh: float = 0.7,
    rpn_bg_iou_thresh: float = 0.3,
    rpn_batch_size_per_image: int = 256,
    rpn_positive_fraction: float = 0.5,
    rpn_score_thresh: float = 0.0,
    rpn_negatives_per_positive: float | None = None,
    rpn_delta_loss: DeltaLoss = DELTA_LOSS,
    pool: nn.Module | None = None,
    box_head: nn.Module | None = None,
    representation: int = 1024,
    box_score_thresh: float = 0.05,
    box_nms_thresh: float = 0.5,
    box_detections_per_img: int = 100,
    box_fg_iou_thresh: float = 0.5,
    box_bg_iou_thresh: float = 0.5,
    box_batch_size_per_image: int = 512,
    box_positive_fraction: float = 0.25,
    box_sampler: Sampler = sample_at_random,
    box_delta_loss: DeltaLoss = DELTA_LOSS,
    box_background_deltas: bool = True,
    bbox_reg_weights: Sequence[float] = BOX_WEIGHTS,
) -> Detector:
    """A Faster R-CNN from its parts; names and defaults of torchvision.

    Args:
        backbone: See :class:`detops.detectors.Detector`.
        neck: As well.
        num_classes: With the background, which is class 0.
        min_size: Pixels of the images' shorter side, see :class:`detops.images.ImageTransform`.
        max_size: Most pixels of the longer side.
        image_mean: Of each channel.
        image_std: Of each channel.
        anchors: One set for each level; None: one size for each, from 32, doubled from level to level.
        anchor_sizes: Of each level the anchors' widths and heights, in pixels, in place of ``anchors``.
        rpn_conv_depth: See :class:`detops.heads.rpn.RPN` for this and all that begins with ``rpn_``.
        rpn_pre_nms_top_n_train: Proposals of each level before non-maximum suppression.
        rpn_pre_nms_top_n_test: In evaluation.
        rpn_post_nms_top_n_train: Proposals of an image after it.
        rpn_post_nms_top_n_test: In evaluation.
        rpn_nms_thresh: Overlap above which the lower proposal is dropped.
        rpn_fg_iou_thresh: Least overlap of an anchor that is an object.
        rpn_bg_iou_thresh: Overlap below which it is background.
        rpn_batch_size_per_image: Anchors that the loss sees.
        rpn_positive_fraction: Share of objects among them.
        rpn_score_thresh: Least objectness of a proposal.
        rpn_negatives_per_positive: Most anchors without an object that the loss sees for each with one; None: any.
        rpn_delta_loss: Of the deltas predicted and wanted; their sum.
        pool: Regions to (K, C, S, S); None: :class:`detops.heads.roi.PyramidRoIAlign` of 7 × 7.
        box_head: What follows, to (K, ``representation``); None: two fully connected layers.
        representation: Size of a region's representation.
        box_score_thresh: See :class:`detops.heads.roi.RoIHead` for this and all that begins with ``box_``.
        box_nms_thresh: Overlap above which the lower detection of a class is dropped.
        box_detections_per_img: Most detections of an image.
        box_fg_iou_thresh: Least overlap of a region that is an object.
        box_bg_iou_thresh: Overlap below which it is background.
        box_batch_size_per_image: Regions that the loss sees.
        box_positive_fraction: Share of objects among them.
        box_sampler: Chooses them, as :func:`detops.heads.sampling.sample_libra`.
        box_delta_loss: Of the deltas predicted and wanted; their sum.
        box_background_deltas: Predict deltas of the background too.
        bbox_reg_weights: What the four box deltas are multiplied by.
    """
    channels = neck.channels[0]
    if anchor_sizes is not None:
        check_levels(anchor_sizes, len(neck.strides))
        anchors = AnchorGenerator.of_sizes(anchor_sizes, anchors.steps if anchors else None)
    if anchors is None:
        anchors = AnchorGenerator([(32 * 2**i,) for i in range(len(neck.strides))], _ASPECT_RATIOS)
    rpn = RPN(
        channels,
        anchors,
        rpn_conv_depth,
        fg_iou_thresh=rpn_fg_iou_thresh,
        bg_iou_thresh=rpn_bg_iou_thresh,
        batch_size_per_image=rpn_batch_size_per_image,
        positive_fraction=rpn_positive_fraction,
        pre_nms_top_n=(rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test),
        post_nms_top_n=(rpn_post_nms_top_n_train, rpn_post_nms_top_n_test),
        nms_thresh=rpn_nms_thresh,
        score_thresh=rpn_score_thresh,
        negatives_per_positive=rpn_negatives_per_positive,
        delta_loss=rpn_delta_loss,
    )
    roi = RoIHead(
        pool or PyramidRoIAlign(neck.strides),
        box_head or two_layers(channels * 7**2, representation),
        representation,
        num_classes,
        score_thresh=box_score_thresh,
        nms_thresh=box_nms_thresh,
        detections_per_img=box_detections_per_img,
        fg_iou_thresh=box_fg_iou_thresh,
        bg_iou_thresh=box_bg_iou_thresh,
        batch_size_per_image=box_batch_size_per_image,
        positive_fraction=box_positive_fraction,
        box_weights=bbox_reg_weights,
        sampler=box_sampler,
        delta_loss=box_delta_loss,
        background_deltas=box_background_deltas,
    )
    transform = ImageTransform(min_size, max_size, image_mean, image_std)
    return Detector(transform, backbone, neck, TwoStageHead(rpn, roi))
