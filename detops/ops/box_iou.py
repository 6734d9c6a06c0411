"""Overlap of every box of one set with every box of another."""

import math
from typing import Any

import torch
from torch import Tensor

from . import _checks
from .boxes import _FORMATS, _ROTATED_FORMATS, box_convert

_KINDS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes.

    Args:
        boxes1: (..., N, 4), any real dtype; rotated ones (..., N, 5) or (..., N, 8).
        boxes2: (..., M, 4); leading dimensions broadcast against those of ``boxes1``.
        fmt: How a box is given: "xyxy" corners, "xywh" or "cxcywh"; rotated, as :func:`detops.ops.box_convert` says,
            "cxcywhr", "xywhr" or "xyxyxyxy".

    Returns:
        (..., N, M) in [0, 1]; float64 if one of the inputs is, else float32. Two boxes of no area have overlap 0. A
        negative width or height counts as no intersection; NaN gives NaN. Differentiable in both sets. Of rotated
        boxes: what :func:`detops.ops.box_iou_rotated` gives, with angles in degrees;
        0 for NaN, and no gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``fmt`` is none of the six.
    """
    if fmt in _ROTATED_FORMATS:
        return _pairs(_rotated, _as_centre(boxes1, fmt), _as_centre(boxes2, fmt))
    if fmt != "xyxy":
        if fmt not in _FORMATS:
            raise ValueError(f"box_iou: expected fmt one of {(*_FORMATS, *_ROTATED_FORMATS)}, got {fmt!r}")
        boxes1, boxes2 = box_convert(boxes1, fmt, "xyxy"), box_convert(boxes2, fmt, "xyxy")
    return _pairs(torch.ops.detops.box_iou.default, boxes1, boxes2)


def _rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Of (..., 5) with angles in degrees, counter-clockwise."""
    return torch.ops.detops.box_iou_rotated.default(boxes1, boxes2, False, False, False, True)


def _as_centre(boxes: Tensor, fmt: str) -> Tensor:
    """Rotated boxes as "cxcywhr"; without rounding to their own dtype on the way, if that is coarse."""
    boxes = boxes.detach()
    if fmt == "cxcywhr":
        return boxes
    if boxes.dtype in _checks.INTEGER:
        return box_convert(boxes.double(), fmt, "cxcywhr").float()
    return box_convert(boxes.float() if boxes.itemsize < 4 else boxes, fmt, "cxcywhr")


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU of every pair of boxes (https://arxiv.org/abs/1902.09630): IoU minus the empty share of the hull.

    Args:
        boxes1: Corners, (..., N, 4), any real dtype.
        boxes2: (..., M, 4); leading dimensions broadcast against those of ``boxes1``.

    Returns:
        (..., N, M) in (-1, 1]; float64 if one of the inputs is, else float32. Differentiable in both sets.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
    """
    return _pairs(torch.ops.detops.generalized_box_iou.default, boxes1, boxes2)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU of every pair of boxes (https://arxiv.org/abs/1911.08287, section 3).

    IoU minus the squared distance of the centres over the squared diagonal of the hull.

    Args:
        boxes1: Corners, (..., N, 4), any real dtype.
        boxes2: (..., M, 4); leading dimensions broadcast against those of ``boxes1``.
        eps: Added to the squared diagonal.

    Returns:
        (..., N, M) in (-1, 1]; float64 if one of the inputs is, else float32. Differentiable in both sets.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
    """
    return _pairs(torch.ops.detops.distance_box_iou.default, boxes1, boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of every pair of boxes (https://arxiv.org/abs/1911.08287, section 4).

    Distance IoU minus a penalty for unlike aspect ratios. As in the paper, the penalty's trade-off factor counts as a
    constant in the gradient.

    Args:
        boxes1: Corners, (..., N, 4), any real dtype.
        boxes2: (..., M, 4); leading dimensions broadcast against those of ``boxes1``.
        eps: Added to the denominators.

    Returns:
        (..., N, M), at most 1; float64 if one of the inputs is, else float32. Differentiable in both sets.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
    """
    return _pairs(torch.ops.detops.complete_box_iou.default, boxes1, boxes2, eps)


def _pairs(op: Any, boxes1: Tensor, boxes2: Tensor, *args: float) -> Tensor:
    """Call an operator on (N, 4), (M, 4) as they are; on more dimensions as one batch (B, N, 4), (B, M, 4)."""
    if boxes1.dim() <= 2 and boxes2.dim() <= 2:
        return op(boxes1, boxes2, *args)
    batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    flat = [
        boxes.expand(*batch, *boxes.shape[-2:]).reshape(math.prod(batch), *boxes.shape[-2:])
        for boxes in (boxes1, boxes2)
    ]
    return op(*flat, *args).reshape(*batch, boxes1.shape[-2], boxes2.shape[-2])


def _check(op: str, boxes1: Tensor, boxes2: Tensor) -> None:
    _checks.check_real(op, "boxes1", boxes1)
    _checks.check_real(op, "boxes2", boxes2)
    batch = [boxes1.shape[0]] if boxes1.dim() == 3 else []
    _checks.check_shape(op, "boxes1", boxes1, [*batch, None, 4])
    _checks.check_shape(op, "boxes2", boxes2, [*batch, None, 4])
    _checks.check_same_device(op, "boxes1", boxes1, "boxes2", boxes2)


def _score_dtype(boxes1: Tensor, boxes2: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (boxes1.dtype, boxes2.dtype) else torch.float32


def _register(kind: int, name: str) -> None:
    def fake(boxes1: Tensor, boxes2: Tensor, eps: float = 0.0) -> Tensor:
        _check(name, boxes1, boxes2)
        return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]), dtype=_score_dtype(boxes1, boxes2))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        boxes1, boxes2, *eps = inputs
        ctx.save_for_backward(boxes1, boxes2)
        ctx.eps = eps

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes1, boxes2 = ctx.saved_tensors
        eps = ctx.eps[0] if ctx.eps else 0.0
        grad1, grad2 = torch.ops.detops.box_iou_backward(grad, boxes1, boxes2, kind, eps)
        return (grad1.to(boxes1.dtype), grad2.to(boxes2.dtype), *(None for _ in ctx.eps))

    torch.library.register_fake(f"detops::{name}", fake)
    torch.library.register_autograd(f"detops::{name}", backward, setup_context=setup_context)


@torch.library.register_fake("detops::box_iou_backward")
def _(grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int, eps: float) -> tuple[Tensor, Tensor]:
    dtype = _score_dtype(boxes1, boxes2)
    return boxes1.new_empty(boxes1.shape, dtype=dtype), boxes1.new_empty(boxes2.shape, dtype=dtype)


_checks.refuse_second_derivative("box_iou", "box_iou_backward")
for _kind, _name in enumerate(_KINDS):
    _register(_kind, _name)
