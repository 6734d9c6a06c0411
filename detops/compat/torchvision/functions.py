"""The functions of ``torchvision.ops`` that run on kernels of detops.

Not ``box_area``, ``box_convert`` and ``clip_boxes_to_image``: they are plain PyTorch on both sides, and as fast.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision.ops
from torch import Tensor

from ... import ops
from .redirect import Replacement

_DEVICES = ("cpu", "cuda") if torch._C._dispatch_has_kernel_for_dispatch_key("detops::nms", "CUDA") else ("cpu",)

_ROTATED_FORMATS = ("cxcywhr", "xywhr", "xyxyxyxy")  # of which torchvision's overlaps are float32

_SAME_ARGUMENTS = (
    "nms",
    "batched_nms",
    "generalized_box_iou",
    "distance_box_iou",
    "complete_box_iou",
    "masks_to_boxes",
    "roi_align",
    "roi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "deform_conv2d",
    "generalized_box_iou_loss",
    "distance_box_iou_loss",
    "complete_box_iou_loss",
)


def served(arguments: Iterable[Any]) -> bool:
    """Whether all tensors, also those in lists, are where detops has kernels, and are not quantised."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            if argument.device.type not in _DEVICES or argument.is_quantized:
                return False
        elif isinstance(argument, (list, tuple)) and not served(argument):
            return False
    return True


def _box_iou(original: Callable[..., Tensor], boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    if not served((boxes1, boxes2)):
        return original(boxes1, boxes2, fmt)
    ious = ops.box_iou(boxes1, boxes2, fmt)
    return ious.float() if fmt in _ROTATED_FORMATS else ious


def _remove_small_boxes(original: Callable[..., Tensor], boxes: Tensor, min_size: float) -> Tensor:
    if boxes.dim() != 2 or not served((boxes,)):
        return original(boxes, min_size)
    return ops.remove_small_boxes(boxes, min_size)


def _sigmoid_focal_loss(
    original: Callable[..., Tensor], inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> Tensor:
    if gamma < 0 or not served((inputs, targets)):
        return original(inputs, targets, alpha, gamma, reduction)
    return ops.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)


def _replacement(name: str) -> Replacement:
    ours = getattr(ops, name)

    def replacement(original: Callable[..., Tensor], *args: Any) -> Tensor:
        return ours(*args) if served(args) else original(*args)

    return replacement


FUNCTIONS: list[tuple[Any, Replacement]] = [
    *((getattr(torchvision.ops, name), _replacement(name)) for name in _SAME_ARGUMENTS),
    (torchvision.ops.box_iou, _box_iou),
    (torchvision.ops.remove_small_boxes, _remove_small_boxes),
    (torchvision.ops.sigmoid_focal_loss, _sigmoid_focal_loss),
]
