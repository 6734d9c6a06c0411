"""Smooth L1 loss in one pass each way."""

from typing import Any

import torch
from torch import Tensor

from . import _checks

_REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
_REDUCTION_OF_TORCH = {"none": 0, "mean": 1, "sum": 2}
_HALF = (torch.float16, torch.bfloat16)

# Elements up to which a plain loss with a gradient is left to PyTorch, whose autograd nodes are C++. Both passes over
# 4,000 and 16,000 float32 elements take 16 and 21 us there, 20 and 22 us here; of 40,000, 30 and 25 us.
_SMALL = 16384
_LEAST_BETA, _MOST_BETA = 1e-3, 1e3  # between these PyTorch agrees on infinities and NaN, too


def smooth_l1_loss(
    input: Tensor, target: Tensor, beta: float = 1.0, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Smooth L1 loss (https://arxiv.org/abs/1504.08083, equation 3): quadratic where the difference is below ``beta``.

    ``0.5 * d**2 / beta`` for ``d = |input - target| < beta``, else ``d - 0.5 * beta``, as
    :func:`torch.nn.functional.smooth_l1_loss`. A sum or mean with a gradient is one pass in all: it writes the
    gradient along with the loss, for the backward pass to hand out. All else is one pass forward and one backward.

    Args:
        input: Predictions, any shape, floating.
        target: Of the shape of ``input``; floating, its dtype may be another.
        beta: Difference at which the loss becomes linear; 0 gives the L1 loss.
        reduction: "mean" over the elements, "sum" or "none".
        weight: Multiplies each element's loss before the reduction; broadcasts to the shape of ``input``, as (N, 1) to
            (N, 4). Gets no gradient.

    Returns:
        (), or the shape of ``input`` without reduction; dtype of ``input``, under ``torch.autocast`` float32 for a
        half-precision one. Half-precision elements are summed in float32. The mean of no elements is NaN. The sum does
        not depend on the number of threads. Differentiable, twice, in ``input`` and ``target``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``beta`` is negative or NaN, or ``reduction`` is none of the three.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: expected beta of at least 0, got {beta}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"smooth_l1_loss: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
    wide = input.dtype in _HALF and not input.is_meta and torch.is_autocast_enabled(input.device.type)
    if weight is not None and weight.requires_grad:
        weight = weight.detach()
    args = (input, target, weight, beta, _REDUCTIONS[reduction], wide)
    if _is_traced():
        return torch.ops.detops.smooth_l1_loss.default(*args)
    if torch.is_grad_enabled() and (input.requires_grad or target.requires_grad):
        if (
            input.numel() <= _SMALL
            and weight is None
            and _LEAST_BETA <= beta <= _MOST_BETA
            and _is_plain(input, target)
        ):
            return torch._C._nn.smooth_l1_loss(input, target, _REDUCTION_OF_TORCH[reduction], beta)  # type: ignore[arg-type]
        return _SmoothL1Loss.apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.detops.smooth_l1_loss.default(*args)


def _is_plain(input: Tensor, target: Tensor) -> bool:
    """Whether PyTorch's own loss takes the two as they are."""
    return (
        input.dtype is target.dtype
        and input.dtype in (torch.float32, torch.float64)
        and input.shape == target.shape
        and input.is_cpu
        and target.is_cpu
        and input.is_contiguous()
        and target.is_contiguous()
    )


def _is_traced() -> bool:
    """Whether anything but plain eager execution looks on: a compiler, a functional transform, a dispatch mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _check(op: str, input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int) -> None:
    _checks.check_floating(op, "input", input)
    _checks.check_floating(op, "target", target)
    _check_same_shape(op, input, "target", target)
    _checks.check_same_device(op, "input", input, "target", target)
    if weight is not None:
        _checks.check_floating(op, "weight", weight)
        sizes = zip(reversed(weight.shape), reversed(input.shape), strict=False)
        if weight.dim() > input.dim() or not all(size in (1, whole) for size, whole in sizes):
            shapes = f"{_shape(input)}, got {_shape(weight)}"
            _checks.fail(op, f"expected weight that broadcasts to the shape of input, {shapes}")
        _checks.check_same_device(op, "input", input, "weight", weight)
    if not beta >= 0:
        _checks.fail(op, f"expected beta of at least 0, got {beta}")
    if not 0 <= reduction <= 2:
        _checks.fail(op, f"expected reduction from 0 to 2, got {reduction}")


def _check_same_shape(op: str, input: Tensor, name: str, other: Tensor) -> None:
    if input.shape != other.shape:
        _checks.fail(op, f"expected {name} of the shape of input, {_shape(input)}, got {_shape(other)}")


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _dense_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without gaps whose axes lie in memory in the order that those of the given one do."""
    strides, step = [0] * tensor.dim(), 1
    steps = tensor.stride()
    for axis in sorted(range(tensor.dim()), key=lambda axis: -steps[axis])[::-1]:
        strides[axis] = step
        step = step * max(tensor.shape[axis], 1)
    return tensor.new_empty_strided(tensor.shape, strides, dtype=dtype)


@torch.library.register_fake("detops::smooth_l1_loss")
def _(input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int, wide: bool) -> Tensor:
    _check("smooth_l1_loss", input, target, weight, beta, reduction)
    dtype = torch.float32 if wide and input.dtype.itemsize == 2 else input.dtype
    return _dense_like(input, dtype) if reduction == 0 else input.new_empty((), dtype=dtype)


@torch.library.register_fake("detops::smooth_l1_loss_with_gradient")
def _(
    input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int, wide: bool
) -> tuple[Tensor, Tensor]:
    _check("smooth_l1_loss", input, target, weight, beta, reduction)
    if reduction == 0:
        _checks.fail("smooth_l1_loss", "expected reduction from 1 to 2, got 0")
    dtype = torch.float32 if wide and input.dtype in _HALF else input.dtype
    return input.new_empty((), dtype=dtype), _dense_like(input, input.dtype)


@torch.library.register_fake("detops::smooth_l1_loss_backward")
def _(grad: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int) -> Tensor:
    op = "smooth_l1_loss_backward"
    _check(op, input, target, weight, beta, reduction)
    _checks.check_floating(op, "grad", grad)
    _checks.check_same_device(op, "input", input, "grad", grad)
    if reduction == 0:
        _check_same_shape(op, input, "grad", grad)
    else:
        _checks.check_shape(op, "grad", grad, ())
    return _dense_like(input, input.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    predicted, target, weight, ctx.beta, ctx.reduction, _ = inputs
    ctx.save_for_backward(predicted, target, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    predicted, target, weight = ctx.saved_tensors
    d_input = d_target = None
    if ctx.needs_input_grad[0]:
        d_input = _gradient(grad, predicted, target, weight, ctx.beta, ctx.reduction)
    if ctx.needs_input_grad[1]:  # the loss is symmetric
        d_target = _gradient(grad, target, predicted, weight, ctx.beta, ctx.reduction)
    return d_input, d_target, None, None, None, None


def _gradient(*args: Any) -> Tensor:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.ops.detops.smooth_l1_loss_backward.default(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.detops.smooth_l1_loss_backward.default(*args)


class _SmoothL1Loss(torch.autograd.Function):
    """The operator's own autograd, at half the latency of the registered one: for calls that nothing traces."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        predicted, target, weight, ctx.beta, ctx.reduction, _ = args
        ctx.save_for_backward(predicted, target, weight)
        ctx.gradient = None
        with torch._C._AutoDispatchBelowAutograd():
            if ctx.reduction == 0 or not (ctx.needs_input_grad[0] and predicted.is_cpu):
                return torch.ops.detops.smooth_l1_loss.default(*args)
            loss, ctx.gradient = torch.ops.detops.smooth_l1_loss_with_gradient.default(*args)
            return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient is the caller's once handed out: a second pass through a retained graph computes it anew, to the
        # same bits, as does one that is to be differentiated.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or torch.is_grad_enabled() or type(grad) is not Tensor or not grad.is_cpu or _is_traced():
            return _backward(ctx, grad)
        if grad.item() != 1:
            if gradient.dtype in _HALF:  # rounded once already
                return _backward(ctx, grad)
            gradient.mul_(grad)
        d_target = None
        if ctx.needs_input_grad[1]:
            predicted, target, weight = ctx.saved_tensors
            d_target = _gradient(grad, target, predicted, weight, ctx.beta, ctx.reduction)
        return gradient, d_target, None, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, predicted, target, weight, ctx.beta, ctx.reduction = inputs
    ctx.save_for_backward(grad, predicted, target, weight)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives are rare: plain PyTorch will do."""
    of_loss, predicted, target, weight = ctx.saved_tensors
    difference = predicted - target
    factor = grad if weight is None else grad * weight
    if ctx.reduction == _REDUCTIONS["mean"]:
        factor = factor / predicted.numel()
    slope = difference.sign() if ctx.beta == 0 else (difference / ctx.beta).clamp(-1, 1)
    d_loss = factor * slope
    curvature = (difference.abs() < ctx.beta) / ctx.beta if ctx.beta > 0 else torch.zeros_like(difference)
    d_input = factor * of_loss * curvature
    if ctx.reduction != _REDUCTIONS["none"]:
        d_loss = d_loss.sum()
    return d_loss.to(of_loss.dtype), d_input.to(predicted.dtype), -d_input.to(target.dtype), None, None, None


torch.library.register_autograd("detops::smooth_l1_loss", _backward, setup_context=_setup)
torch.library.register_autograd("detops::smooth_l1_loss_backward", _double_backward, setup_context=_setup_backward)
