"""Focal losses from labels: with a class of its own for the background (softmax), or with none (sigmoid)."""

import torch
from torch import Tensor

from ... import ops


@torch.no_grad()
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Of logits (N, C) and labels (N,), C or below 0 for background; ``weight`` by label, (C,), or empty."""
    labels = _labels(target, input.shape[1])
    losses = ops.sigmoid_focal_loss_from_labels(input, labels, alpha, gamma, "none")
    output.copy_(_weighted(losses, labels, weight))


@torch.no_grad()
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    labels = _labels(target, input.shape[1])
    weights = _weighted(torch.ones_like(input), labels, weight)
    backward = torch.ops.detops.sigmoid_focal_loss_from_labels_backward.default
    grad_input.copy_(backward(weights, input, labels, None, alpha, gamma, 0))


@torch.no_grad()
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Of probabilities (N, C) and labels (N,), of which those below 0 count as 0 loss."""
    p, known, weights = _of_label(input, target, weight)
    losses = -alpha * (1 - p) ** gamma * _log(p)
    output.copy_(torch.where(known, losses * weights, 0.0))


@torch.no_grad()
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """With respect to the logits; ``buff`` (N,) takes the factor that a row's gradients have in common."""
    p, known, weights = _of_label(input, target, weight)
    common = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    buff.copy_(torch.where(known, common * weights, 0.0))
    of_class = torch.zeros_like(input).scatter_(1, target.clamp(min=0)[:, None], 1.0)
    grad_input.copy_(buff[:, None] * (of_class - input))


def _labels(target: Tensor, classes: int) -> Tensor:
    return torch.where(target < 0, classes, target)


def _weighted(losses: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Rows times the weight of their label, which is 1 for background."""
    if weight.numel() == 0:
        return losses
    return losses * torch.cat([weight, weight.new_ones(1)])[labels, None]


def _of_label(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's probability of its label, whether it has one, and the label's weight; all (N,)."""
    labels = target.clamp(min=0)
    weights = weight[labels] if weight.numel() > 0 else softmax.new_ones(labels.shape)
    return softmax.gather(1, labels[:, None])[:, 0], target >= 0, weights


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()
