"""Balanced L1 loss in one pass each way."""

import math

import torch
from torch import Tensor

from . import _checks, _loss

_MOST_RATIO = 80  # its exponential is a number in float32


def balanced_l1_loss(
    input: Tensor,
    target: Tensor,
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Balanced L1 loss of Libra R-CNN (https://arxiv.org/abs/1904.02701, section 3.3).

    Of ``d = |input - target|``: ``alpha / b * (b * d + 1) * log(b * d / beta + 1) - alpha * d`` below ``beta``, else
    ``gamma * d + gamma / b - alpha * beta``, where ``b = exp(gamma / alpha) - 1``, as mmdet's. Its slope at small
    differences is larger than that of :func:`smooth_l1_loss`, at most ``gamma``; loss and slope are continuous for
    ``beta`` = 1.

    Args:
        input: Predictions, any shape, floating.
        target: Of the shape of ``input``; floating, its dtype may be another.
        alpha: Above 0; the smaller, the more weight small differences have.
        gamma: Above 0, at most 80 ``alpha``; slope of large differences.
        beta: Above 0; difference at which the loss becomes linear.
        reduction: "mean" over the elements, "sum" or "none".
        weight: Multiplies each element's loss before the reduction; broadcasts to the shape of ``input``, as (N, 1) to
            (N, 4). Gets no gradient.

    Returns:
        (), or the shape of ``input`` without reduction; dtype of ``input``, under ``torch.autocast`` float32 for a
        half-precision one. Half-precision elements are summed in float32. The mean of no elements is NaN. The sum does
        not depend on the number of threads. Differentiable, twice, in ``input`` and ``target``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``alpha``, ``gamma``, ``beta`` or ``reduction`` is not as above.
    """
    if not (alpha > 0 and 0 < gamma <= _MOST_RATIO * alpha):
        raise ValueError(f"balanced_l1_loss: {_RATIO}, got {alpha} and {gamma}")
    if not beta > 0:
        raise ValueError(f"balanced_l1_loss: expected beta above 0, got {beta}")
    number = _loss.reduction_number("balanced_l1_loss", reduction)
    if weight is not None and weight.requires_grad:
        weight = weight.detach()
    return _LOSS(input, target, weight, alpha, gamma, beta, number, _loss.is_wide(input))


_RATIO = "expected alpha and gamma above 0 with gamma of at most 80 alpha"


def _check(
    op: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    alpha: float,
    gamma: float,
    beta: float,
    reduction: int,
) -> None:
    _loss.check_pair(op, input, target, weight)
    if not (alpha > 0 and 0 < gamma <= _MOST_RATIO * alpha):
        _checks.fail(op, f"{_RATIO}, got {alpha} and {gamma}")
    if not beta > 0:
        _checks.fail(op, f"expected beta above 0, got {beta}")
    _loss.check_reduction(op, reduction)


def _plain(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    alpha: float,
    gamma: float,
    beta: float,
    reduction: int,
) -> Tensor:
    d = (input - target).abs()
    b = math.expm1(gamma / alpha)
    near = alpha / b * (b * d + 1) * torch.log1p(b * d / beta) - alpha * d
    losses = torch.where(d < beta, near, gamma * d + gamma / b - alpha * beta)
    return _loss.reduce(losses if weight is None else losses * weight, reduction)


_LOSS = _loss.define("balanced_l1_loss", _check, _plain, tensors=3)
