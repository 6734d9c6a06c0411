"""Losses of predicted boxes against their targets, pair by pair."""

import math
from typing import Any

import torch
from torch import Tensor

from . import _checks, _loss

_KINDS = {"generalized_box_iou_loss": 1, "distance_box_iou_loss": 2, "complete_box_iou_loss": 3}
_DEFAULT_EPS = 1e-7


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Loss ``1 - GIoU`` of each pair of boxes (https://arxiv.org/abs/1902.09630).

    Args:
        boxes1: Corners, (..., 4), any real dtype.
        boxes2: Broadcasts against ``boxes1``.
        reduction: "mean" over the pairs, "sum" or "none".
        eps: Added to the areas of union and hull, which are denominators.

    Returns:
        (), or (...) without reduction; float64 if one of the inputs is, else float32, also under ``torch.autocast``.
        From 0 to 2 for boxes with an area; the mean of no pairs is 0; NaN gives NaN. The sum does not depend on the
        number of threads. Differentiable, twice, in both inputs; the gradient is finite for finite boxes, with area or
        without.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``reduction`` is none of the three.
    """
    return _call(_GENERALIZED, boxes1, boxes2, reduction, eps)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Loss ``1 - DIoU`` of each pair of boxes (https://arxiv.org/abs/1911.08287, section 3).

    Args:
        boxes1: Corners, (..., 4), any real dtype.
        boxes2: Broadcasts against ``boxes1``.
        reduction: "mean" over the pairs, "sum" or "none".
        eps: Added to the area of the union and to the squared diagonal of the hull, which are denominators.

    Returns:
        (), or (...) without reduction, as :func:`generalized_box_iou_loss`.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``reduction`` is none of the three.
    """
    return _call(_DISTANCE, boxes1, boxes2, reduction, eps)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Loss ``1 - CIoU`` of each pair of boxes (https://arxiv.org/abs/1911.08287, section 4).

    As in the paper, the trade-off factor of the penalty for unlike aspect ratios counts as a constant in the gradient.

    Args:
        boxes1: Corners, (..., 4), any real dtype.
        boxes2: Broadcasts against ``boxes1``.
        reduction: "mean" over the pairs, "sum" or "none".
        eps: Added to the denominator of the trade-off factor; the others have 1e-7 added, as in torchvision.

    Returns:
        (), or (...) without reduction, as :func:`generalized_box_iou_loss`. The aspect ratio of a box of no size is 0.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``reduction`` is none of the three.
    """
    return _call(_COMPLETE, boxes1, boxes2, reduction, eps)


def _call(loss: _loss.Loss, boxes1: Tensor, boxes2: Tensor, reduction: str, eps: float) -> Tensor:
    """Take boxes (N, 4) as they are, others as rows."""
    number = _loss.reduction_number(loss.name, reduction)
    if boxes1.dim() == 2 and boxes1.shape == boxes2.shape:
        return loss(boxes1, boxes2, eps, number)
    if boxes1.shape != boxes2.shape and _broadcast(boxes1.shape, boxes2.shape):
        boxes1, boxes2 = torch.broadcast_tensors(boxes1, boxes2)
    if boxes1.dim() == 2 or boxes1.shape != boxes2.shape or boxes1.shape[-1:] != (4,):
        return loss(boxes1, boxes2, eps, number)  # says what is wrong
    result = loss(boxes1.reshape(-1, 4), boxes2.reshape(-1, 4), eps, number)
    return result.reshape(boxes1.shape[:-1]) if reduction == "none" else result


def _broadcast(a: torch.Size, b: torch.Size) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _check(op: str, boxes1: Tensor, boxes2: Tensor, reduction: int, least: int = 0) -> None:
    _checks.check_real(op, "boxes1", boxes1)
    _checks.check_real(op, "boxes2", boxes2)
    _checks.check_shape(op, "boxes1", boxes1, (None, 4))
    _checks.check_shape(op, "boxes2", boxes2, (boxes1.shape[0], 4))
    _checks.check_same_device(op, "boxes1", boxes1, "boxes2", boxes2)
    _loss.check_reduction(op, reduction, least)


def _dtype(boxes1: Tensor, boxes2: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (boxes1.dtype, boxes2.dtype) else torch.float32


def _make(name: str) -> _loss.Loss:
    kind = _KINDS[name]

    def with_gradient(boxes1: Tensor, boxes2: Tensor, eps: float, reduction: int) -> tuple[Tensor, Tensor]:
        return torch.ops.detops.box_iou_loss_with_gradient.default(boxes1, boxes2, kind, eps, reduction)

    def backward(position: int, grad: Tensor, *args: Any) -> Tensor:
        boxes1, boxes2, eps, reduction = args
        first, second = (boxes1, boxes2) if position == 0 else (boxes2, boxes1)  # the losses are symmetric
        op = torch.ops.detops.box_iou_loss_backward.default
        return _loss.call_backward(op, grad, first, second, kind, eps, reduction).to(first.dtype)

    def fake(boxes1: Tensor, boxes2: Tensor, eps: float, reduction: int) -> Tensor:
        _check(name, boxes1, boxes2, reduction)
        shape = boxes1.shape[:-1] if reduction == _loss.REDUCTIONS["none"] else ()
        return boxes1.new_empty(shape, dtype=_dtype(boxes1, boxes2))

    torch.library.register_fake(f"detops::{name}", fake)
    loss = _loss.Loss(name, getattr(torch.ops.detops, name).default, with_gradient, backward, tensors=2, reduction=3)
    loss.register_autograd()
    return loss


@torch.library.register_fake("detops::box_iou_loss_with_gradient")
def _(boxes1: Tensor, boxes2: Tensor, kind: int, eps: float, reduction: int) -> tuple[Tensor, Tensor]:
    _check("box_iou_loss_with_gradient", boxes1, boxes2, reduction, least=1)
    dtype = _dtype(boxes1, boxes2)
    return boxes1.new_empty((), dtype=dtype), boxes1.new_empty(boxes1.shape, dtype=dtype)


@torch.library.register_fake("detops::box_iou_loss_backward")
def _(grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int, eps: float, reduction: int) -> Tensor:
    op = "box_iou_loss_backward"
    _check(op, boxes1, boxes2, reduction)
    _checks.check_shape(op, "grad", grad, boxes1.shape[:-1] if reduction == _loss.REDUCTIONS["none"] else ())
    return boxes1.new_empty(boxes1.shape, dtype=_dtype(boxes1, boxes2))


def _plain(boxes1: Tensor, boxes2: Tensor, kind: int, given_eps: float, reduction: int) -> Tensor:
    dtype = _dtype(boxes1, boxes2)
    a, b = (boxes.to(dtype) for boxes in (boxes1, boxes2))
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0)
    eps = _DEFAULT_EPS if kind == 3 else given_eps
    union = size_a.prod(1) + size_b.prod(1) - shared
    iou = shared / (union + eps)
    if kind == 1:
        loss = 1 - iou + (hull.prod(1) - union) / (hull.prod(1) + eps)
    else:
        between = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2
        loss = 1 - iou + between.square().sum(1) / (hull.square().sum(1) + eps)
    if kind == 3:
        turn = torch.atan2(size_a[:, 0], size_a[:, 1]) - torch.atan2(size_b[:, 0], size_b[:, 1])
        v = 4 / math.pi**2 * turn.square()
        loss = loss + (v / (1 - iou + v + given_eps)).detach() * v
    if reduction == _loss.REDUCTIONS["none"]:
        return loss
    return loss.sum() / (max(len(loss), 1) if reduction == _loss.REDUCTIONS["mean"] else 1)


_loss.register_second_derivative("detops::box_iou_loss_backward", _plain, tensors=2)
_GENERALIZED, _DISTANCE, _COMPLETE = map(_make, _KINDS)
