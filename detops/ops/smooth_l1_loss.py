"""Smooth L1 loss in one pass each way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _loss

_REDUCTION_OF_TORCH = {"none": 0, "mean": 1, "sum": 2}

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
    number = _loss.reduction_number("smooth_l1_loss", reduction)
    if weight is not None and weight.requires_grad:
        weight = weight.detach()
    elif (
        weight is None
        and (input.requires_grad or target.requires_grad)
        and input.numel() <= _SMALL
        and _LEAST_BETA <= beta <= _MOST_BETA
        and torch.is_grad_enabled()
        and not _loss.is_traced()
        and _is_plain(input, target)
    ):
        return torch._C._nn.smooth_l1_loss(input, target, _REDUCTION_OF_TORCH[reduction], beta)  # type: ignore[arg-type]
    return _LOSS(input, target, weight, beta, number, _loss.is_wide(input))


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


def _check(op: str, input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int) -> None:
    _loss.check_pair(op, input, target, weight)
    if not beta >= 0:
        _checks.fail(op, f"expected beta of at least 0, got {beta}")
    _loss.check_reduction(op, reduction)


def _plain(input: Tensor, target: Tensor, weight: Tensor | None, beta: float, reduction: int) -> Tensor:
    losses = F.smooth_l1_loss(input, target, beta=beta, reduction="none")
    return _loss.reduce(losses if weight is None else losses * weight, reduction)


_LOSS = _loss.define("smooth_l1_loss", _check, _plain, tensors=3)
