"""Boxes as offsets from anchors, and back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks, _loss

_ENCODE = torch.ops.detops.encode_boxes.default
_DECODE = torch.ops.detops.decode_boxes.default
_BACKWARD = {
    _ENCODE: torch.ops.detops.encode_boxes_backward.default,
    _DECODE: torch.ops.detops.decode_boxes_backward.default,
}
_Weights = Sequence[float]


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: _Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Offsets of boxes from their anchors, as R-CNN's regressors learn them (https://arxiv.org/abs/1311.2524).

    For centres ``c`` and sizes ``s``: ``wx * (c - c_anchor) / s_anchor`` and ``ww * log(s / s_anchor)`` along x, the
    like with ``wy`` and ``wh`` along y. The inverse of :func:`decode_boxes`; as torchvision's ``BoxCoder``.

    Args:
        boxes: Corners, (..., 4), floating.
        anchors: Corners, of a shape that broadcasts to that of ``boxes``, as (A, 4) to (B, A, 4); floating, the dtype
            may be another.
        weights: ``(wx, wy, ww, wh)``, what the offsets are multiplied by.

    Returns:
        Offsets (dx, dy, dw, dh), (..., 4), of the dtype of ``boxes``; computed in float32 for half precision. A box
        without width has ``dw`` -infinity; what an anchor without size gives is infinite or NaN. Differentiable in
        ``boxes`` and ``anchors``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``weights`` are not four.
    """
    return _call(_ENCODE, boxes, anchors, _four("encode_boxes", weights))


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: _Weights = (1.0, 1.0, 1.0, 1.0),
    clip: float = math.log(1000 / 16),
    image_size: tuple[float, float] | None = None,
) -> Tensor:
    """Boxes from their offsets to anchors: the inverse of :func:`encode_boxes`, clipped to an image in the same pass.

    As torchvision's ``BoxCoder`` and ``clip_boxes_to_image``. A head's offsets for every class, (N, C * 4), decode
    without a copy as ``decode_boxes(deltas.view(N, C, 4), proposals[:, None])``, a batch's, (B, A, 4), as they are.

    Args:
        deltas: Offsets (dx, dy, dw, dh), (..., 4), floating.
        anchors: Corners, of a shape that broadcasts to that of ``deltas``; floating, the dtype may be another.
        weights: ``(wx, wy, ww, wh)``, what the offsets were multiplied by.
        clip: Most that ``dw / ww`` and ``dh / wh`` count for, so that no exponential grows out of bounds.
        image_size: Height and width in pixels of the image to which boxes are clipped; None: they are not.

    Returns:
        Corners, (..., 4), of the dtype of ``deltas``; computed in float32 for half precision. NaN stays NaN.
        Differentiable in ``deltas`` and ``anchors``; what is clipped passes no gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``weights`` are not four or ``image_size`` is not two numbers.
    """
    if image_size is None:
        height = width = None
    else:
        if len(image_size) != 2:
            raise ValueError(f"decode_boxes: expected image_size (height, width), got {image_size}")
        height, width = image_size
    return _call(_DECODE, deltas, anchors, (*_four("decode_boxes", weights), clip, height, width))


def _four(op: str, weights: _Weights) -> _Weights:
    if len(weights) != 4:
        raise ValueError(f"{op}: expected weights (wx, wy, ww, wh), got {weights}")
    return weights


def _call(op: Any, boxes: Tensor, anchors: Tensor, args: Sequence[float | None]) -> Tensor:
    """Call an operator on (N, 4) or (B, N, 4), anchors of as many dimensions."""
    missing = boxes.dim() - anchors.dim()
    if missing > 0:
        anchors = anchors[(None,) * missing]
    if boxes.dim() <= 3:
        return _dispatch(op, boxes, anchors, args)
    rows = boxes.shape[-2]
    if anchors.shape[-2] not in (1, rows):
        return op(boxes, anchors, *args)  # which says what is wrong
    flat = anchors.expand(*boxes.shape[:-2], *anchors.shape[-2:]).reshape(-1, *anchors.shape[-2:])
    return _dispatch(op, boxes.reshape(-1, rows, 4), flat, args).reshape(boxes.shape)


def _dispatch(op: Any, boxes: Tensor, anchors: Tensor, args: Sequence[float | None]) -> Tensor:
    if _loss.is_traced():
        return op(boxes, anchors, *args)
    if torch.is_grad_enabled() and (boxes.requires_grad or anchors.requires_grad):
        return _Eager.apply(op, boxes, anchors, *args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(boxes, anchors, *args)


class _Eager(torch.autograd.Function):
    """An operator's own autograd, at half the latency of the registered one: for calls that nothing traces."""

    @staticmethod
    def forward(ctx: Any, op: Any, boxes: Tensor, anchors: Tensor, *args: float | None) -> Tensor:
        ctx.op, ctx.args = op, args
        ctx.save_for_backward(boxes, anchors)
        with torch._C._AutoDispatchBelowAutograd():
            return op(boxes, anchors, *args)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wants = ctx.needs_input_grad[1:3]
        boxes, anchors = ctx.saved_tensors
        gradients = _gradients(_BACKWARD[ctx.op], grad, boxes, anchors, ctx.args, wants)
        return None, *gradients, *(None for _ in ctx.args)


def _gradients(
    op: Any, grad: Tensor, tensor: Tensor, anchors: Tensor, args: Sequence[float | None], wants: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    d_tensor, d_anchors = _loss.call_backward(op, grad, tensor, anchors, *args, *wants)
    return (
        d_tensor.to(tensor.dtype) if wants[0] else None,
        d_anchors.sum_to_size(anchors.shape).to(anchors.dtype) if wants[1] else None,
    )


def _check(op: str, name: str, tensor: Tensor, anchors: Tensor) -> None:
    _checks.check_floating(op, name, tensor)
    _checks.check_floating(op, "anchors", anchors)
    _checks.check_shape(op, name, tensor, [None, None, 4] if tensor.dim() == 3 else [None, 4])
    sizes = zip(anchors.shape, tensor.shape, strict=False)
    if anchors.dim() != tensor.dim() or anchors.shape[-1] != 4 or not all(size in (1, whole) for size, whole in sizes):
        shapes = f"{_checks.shape_of(tensor)}, got {_checks.shape_of(anchors)}"
        _checks.fail(op, f"expected anchors of a shape that broadcasts to that of {name}, {shapes}")
    _checks.check_same_device(op, name, tensor, "anchors", anchors)


def _register(forward: Any, first: str) -> None:
    backward_op = _BACKWARD[forward]
    name, backward_name = (op.name().removeprefix("detops::") for op in (forward, backward_op))

    def fake(tensor: Tensor, anchors: Tensor, *args: float | None) -> Tensor:
        _check(name, first, tensor, anchors)
        return tensor.new_empty(tensor.shape)

    def fake_backward(grad: Tensor, tensor: Tensor, anchors: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        _check(backward_name, first, tensor, anchors)
        _checks.check_floating(backward_name, "grad", grad)
        if grad.shape != tensor.shape:
            shapes = f"{_checks.shape_of(tensor)}, got {_checks.shape_of(grad)}"
            _checks.fail(backward_name, f"expected grad of the shape of {first}, {shapes}")
        _checks.check_same_device(backward_name, first, tensor, "grad", grad)
        dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        wants = args[-2:]
        first_grad, anchors_grad = (tensor.new_empty(tensor.shape if wanted else (0,), dtype=dtype) for wanted in wants)
        return first_grad, anchors_grad

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensor, anchors, *ctx.args = inputs
        ctx.save_for_backward(tensor, anchors)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensor, anchors = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        return *_gradients(backward_op, grad, tensor, anchors, ctx.args, wants), *(None for _ in ctx.args)

    torch.library.register_fake(forward, fake)
    torch.library.register_fake(backward_op, fake_backward)
    torch.library.register_autograd(forward, backward, setup_context=setup_context)

    _checks.refuse_second_derivative(name, backward_name)


_register(_ENCODE, "boxes")
_register(_DECODE, "deltas")
