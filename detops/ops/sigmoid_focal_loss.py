"""Focal loss of logits in one pass each way, from dense targets or from labels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _loss


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Focal loss of RetinaNet (https://arxiv.org/abs/1708.02002, section 3): cross entropy less where it is small.

    ``-alpha_t * (1 - p_t)**gamma * log(p_t)``, where ``p = sigmoid(input)``; ``p_t`` and ``alpha_t`` are ``p`` and
    ``alpha`` for target 1, ``1 - p`` and ``1 - alpha`` for target 0, and in between for targets in between. Nothing
    overflows or cancels, whatever the logits: confident ones keep their digits, infinite ones give 0 or infinity.

    Args:
        inputs: Logits, any shape, floating.
        targets: Of the shape of ``inputs``, floating, from 0 to 1.
        alpha: Weight of positives, from 0 to 1, negatives having 1 - ``alpha``; -1 for none.
        gamma: At least 0; how much less well-classified elements count.
        reduction: "mean" over the elements, "sum" or "none".

    Returns:
        (), or the shape of ``inputs`` without reduction. Its dtype is the one that those of ``inputs`` and ``targets``
        promote to, under ``torch.autocast`` float32 at least. Half-precision elements are summed in float32. The mean
        of no elements is NaN. NaN gives NaN. The sum does not depend on the number of threads. Differentiable, twice,
        in ``inputs`` and ``targets``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``alpha``, ``gamma`` or ``reduction`` is not as above.
    """
    number = _arguments("sigmoid_focal_loss", alpha, gamma, reduction)
    wide = _loss.is_wide(inputs)
    if inputs.dtype is not targets.dtype and inputs.is_floating_point() and targets.is_floating_point():
        wide = wide or inputs.dtype in _loss.HALF
        if targets.dtype is torch.float64:
            inputs = inputs.double()
    return _FROM_TARGETS(inputs, targets, alpha, gamma, number, wide)


def sigmoid_focal_loss_from_labels(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "sum",
    weight: Tensor | None = None,
) -> Tensor:
    """:func:`sigmoid_focal_loss` of logits of C classes that share a label: the one-hot targets are never stored.

    Args:
        logits: (..., C), floating; as (N, C). A head's map (B, A * C, H, W) needs no copy to come to its anchors'
            labels (B, H, W, A): ``map.unflatten(1, (A, C)).permute(0, 3, 4, 1, 2)`` goes in as it lies in memory.
        labels: (...), any integer dtype: the class in 0…C−1, C for background (no class), −1 for what is ignored.
        alpha: Weight of positives, from 0 to 1, negatives having 1 - ``alpha``; -1 for none.
        gamma: At least 0; how much less well-classified elements count.
        reduction: "sum", "mean" over all elements of ``logits``, or "none".
        weight: Multiplies each element's loss before the reduction; broadcasts to the shape of ``logits``, as (C,) or
            (N, 1) to (N, C). Gets no gradient.

    Returns:
        (), or the shape of ``logits`` without reduction; its dtype, under ``torch.autocast`` float32 for half-precision
        ones. Loss and gradient of what is ignored are 0, whatever its logits. All else as :func:`sigmoid_focal_loss`.
        Differentiable, twice, in ``logits``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, a label; a GPU ignores its logits.
        ValueError: If ``alpha``, ``gamma`` or ``reduction`` is not as above.
    """
    number = _arguments("sigmoid_focal_loss_from_labels", alpha, gamma, reduction)
    if weight is not None and weight.requires_grad:
        weight = weight.detach()
    return _FROM_LABELS(logits, labels, weight, alpha, gamma, number, _loss.is_wide(logits))


def _arguments(op: str, alpha: float, gamma: float, reduction: str) -> int:
    if not (0 <= alpha <= 1 or alpha == -1):
        raise ValueError(f"{op}: expected alpha from 0 to 1, or -1 for none, got {alpha}")
    if not gamma >= 0:
        raise ValueError(f"{op}: expected gamma of at least 0, got {gamma}")
    return _loss.reduction_number(op, reduction)


def _check_numbers(op: str, alpha: float, gamma: float, reduction: int) -> None:
    if not (0 <= alpha <= 1 or alpha == -1):
        _checks.fail(op, f"expected alpha from 0 to 1, or -1 for none, got {alpha}")
    if not gamma >= 0:
        _checks.fail(op, f"expected gamma of at least 0, got {gamma}")
    _loss.check_reduction(op, reduction)


def _check(op: str, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int) -> None:
    _checks.check_floating(op, "inputs", inputs)
    _checks.check_floating(op, "targets", targets)
    _loss.check_same_shape(op, "inputs", inputs, "targets", targets)
    _checks.check_same_device(op, "inputs", inputs, "targets", targets)
    _check_numbers(op, alpha, gamma, reduction)


def _check_labels(
    op: str, logits: Tensor, labels: Tensor, weight: Tensor | None, alpha: float, gamma: float, reduction: int
) -> None:
    _checks.check_floating(op, "logits", logits)
    if labels.dtype not in _checks.INTEGER:
        _checks.fail(op, f"expected labels of an integer dtype, got {_checks.dtype_name(labels)}")
    if logits.dim() == 0:
        _checks.fail(op, "expected logits of shape (..., C), got ()")
    _checks.check_shape(op, "labels", labels, logits.shape[:-1])
    _checks.check_same_device(op, "logits", logits, "labels", labels)
    if weight is not None:
        _loss.check_weight(op, "logits", logits, weight)
    _check_numbers(op, alpha, gamma, reduction)


def _backward(position: int, grad: Tensor, *args: Any) -> Tensor:
    op = torch.ops.detops.sigmoid_focal_loss_backward.default
    gradient = _loss.call_backward(op, grad, *args[:-1], position == 1)
    return gradient.to(args[position].dtype)


def _backward_from_labels(position: int, grad: Tensor, *args: Any) -> Tensor:
    return _loss.call_backward(torch.ops.detops.sigmoid_focal_loss_from_labels_backward.default, grad, *args[:-1])


def _plain_losses(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    targets = targets.to(inputs.dtype)
    p = inputs.sigmoid()
    losses = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    losses = losses * (p * (1 - targets) + (1 - p) * targets) ** gamma
    return losses * (alpha * targets + (1 - alpha) * (1 - targets)) if alpha >= 0 else losses


def _plain(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: int, of_targets: bool = False
) -> Tensor:
    return _loss.reduce(_plain_losses(inputs, targets, alpha, gamma), reduction)


def _plain_from_labels(
    logits: Tensor, labels: Tensor, weight: Tensor | None, alpha: float, gamma: float, reduction: int
) -> Tensor:
    classes = logits.shape[-1]
    targets = labels[..., None] == torch.arange(classes, device=logits.device)
    losses = _plain_losses(logits, targets.to(logits.dtype), alpha, gamma)
    losses = torch.where(((labels >= 0) & (labels <= classes))[..., None], losses, 0.0)
    return _loss.reduce(losses if weight is None else losses * weight, reduction)


def _position(alpha: float, gamma: float, reduction: int, of_targets: bool) -> int:
    return int(of_targets)


_FROM_TARGETS = _loss.define("sigmoid_focal_loss", _check, _plain, tensors=2, backward=_backward, position=_position)
_FROM_LABELS = _loss.define(
    "sigmoid_focal_loss_from_labels", _check_labels, _plain_from_labels, tensors=3, backward=_backward_from_labels
)
