"""Kernels of detops under torchvision's operators: for programs that call ``torchvision::nms``, not a function.

TorchScript, programs loaded from a file and C++ do. ``torchvision::roi_pool`` and the position-sensitive ones are left:
they hand their gradient an arg-max or a mapping that the kernels of detops do without.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_OPS = torch.ops.detops


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return _OPS.nms(boxes, scores, iou_threshold)


def _box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return _OPS.box_iou_rotated(boxes1, boxes2, over_first=False, aligned=False, clockwise=False, degrees=True).float()


def _roi_align(input: Tensor, rois: Tensor, *grid: Any) -> Tensor:
    return _OPS.roi_align(input, rois, *grid)


def _roi_align_backward(grad: Tensor, rois: Tensor, *grid: Any) -> Tensor:
    return _OPS.roi_align_backward(grad, rois, *grid, channels_last=False)


def _deform_conv2d(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *options: Any) -> Tensor:
    *geometry, _, _, use_mask = options
    return _OPS.deform_conv2d(input, weight, offset, mask if use_mask else None, bias, *geometry)


def _deform_conv2d_backward(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    *geometry, _, _, use_mask = options
    used, wanted = (mask if use_mask else None), (True, True, True, use_mask)
    *grads, d_mask = _OPS.deform_conv2d_backward(grad, input, weight, offset, used, *geometry, *wanted)
    d_bias = grad.sum((0, 2, 3), dtype=torch.promote_types(grad.dtype, torch.float32)).to(bias.dtype)
    grads = [d.to(t.dtype) for d, t in zip(grads, (input, weight, offset), strict=True)]
    return *grads, d_mask.to(mask.dtype) if use_mask else torch.zeros_like(mask), d_bias


_KERNELS: dict[str, Callable[..., Any]] = {
    "nms": _nms,
    "box_iou_rotated": _box_iou_rotated,
    "roi_align": _roi_align,
    "_roi_align_backward": _roi_align_backward,
    "deform_conv2d": _deform_conv2d,
    "_deform_conv2d_backward": _deform_conv2d_backward,
}


class Kernels:
    """Registers them, and takes them back."""

    def __init__(self) -> None:
        self._library: torch.library.Library | None = None

    def start(self) -> None:
        self._library = torch.library.Library("torchvision", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torchvision's are overridden
            for name, kernel in _KERNELS.items():
                for key in _keys(name):
                    self._library.impl(name, _below_autograd(kernel), key, allow_override=True)

    def end(self) -> None:
        if self._library is not None:
            self._library._destroy()
            self._library = None


def _keys(name: str) -> list[str]:
    """Where detops has a kernel for an operator that this torchvision has."""
    if not hasattr(torch.ops.torchvision, name):
        return []
    ours = f"detops::{name.removeprefix('_')}"
    return [key for key in ("CPU", "CUDA") if torch._C._dispatch_has_kernel_for_dispatch_key(ours, key)]


def _below_autograd(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def below(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return kernel(*args)

    return below
