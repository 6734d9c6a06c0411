"""Balanced L1 loss, forward and backward, against mmdet's formulation in PyTorch."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import detops

from . import workloads
from .common import Case

ALPHA, GAMMA = 0.5, 1.5  # of Libra R-CNN


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every anchor's deltas, a RoI head's output and a tiny one, plain and weighted."""
    for name, shape in (("242,991 x 4", (242_991, 4)), ("512 x 364", (512, 364)), ("10 x 4", (10, 4))):
        for weighted in (False, True):
            for backward in (False, True):
                words = [name, *(["weighted rows"] if weighted else []), "forward" + " and backward" * backward]
                quick = shape[0] == 512 and not weighted
                yield case(", ".join(words), shape, weighted, backward, device, dtype, quick)


def balanced_l1(predicted: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The sum, in plain PyTorch."""
    difference = (predicted - target).abs()
    b = math.exp(GAMMA / ALPHA) - 1
    near = ALPHA / b * (b * difference + 1) * torch.log(b * difference + 1) - ALPHA * difference
    loss = torch.where(difference < 1, near, GAMMA * difference + GAMMA / b - ALPHA)
    return (loss if weight is None else loss * weight).sum()


def case(
    name: str,
    shape: tuple[int, int],
    weighted: bool,
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool,
) -> Case:
    """The sum of all losses; backward gives the gradient with respect to the predictions."""
    random = workloads.generator(0)
    predicted, target = (torch.randn(shape, generator=random).to(device, dtype) for _ in range(2))
    predicted.requires_grad_(backward)
    weight = torch.rand(shape[0], 1, generator=random).to(device, dtype) if weighted else None

    def ours() -> Tensor:
        return detops.ops.balanced_l1_loss(predicted, target, ALPHA, GAMMA, 1.0, "sum", weight)

    def theirs() -> Tensor:
        return balanced_l1(predicted, target, weight)

    def run(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(loss(), predicted)[0] if backward else loss()

    moved = predicted.nbytes * (2 if backward else 1) + target.nbytes + (weight.nbytes if weight is not None else 0)
    return Case("balanced_l1_loss", name, run={"detops": run(ours), "pytorch": run(theirs)}, bytes=moved, quick=quick)
