"""Smooth L1 loss, forward and backward, against PyTorch's."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import detops

from . import workloads
from .common import Case

BETA = 1 / 9  # of Faster R-CNN's box regression


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every anchor's deltas, a RoI head's output and a tiny one, plain and weighted, then the series."""
    for name, shape in (
        ("242,991 x 4", (242_991, 4)),
        ("512 x 364", (512, 364)),
        ("10 x 4", (10, 4)),
    ):
        for weighting, weight_shape in (("", None), (", weighted rows", (shape[0], 1)), (", weighted", shape)):
            quick = shape[0] == 512 and not weighting
            for backward in (False, True):
                direction = ", forward and backward" if backward else ", forward"
                yield case(name + weighting + direction, shape, weight_shape, backward, device, dtype, quick)
    for n in (100, 1_000, 10_000, 100_000):
        yield case(f"{n:,} x 4", (n, 4), None, True, device, dtype, series="n x 4, forward and backward", size=n)


def case(
    name: str,
    shape: tuple[int, ...],
    weight_shape: tuple[int, ...] | None,
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool = False,
    series: str = "",
    size: int = 0,
) -> Case:
    """The sum of all losses; backward gives the gradient with respect to the predictions."""
    random = workloads.generator(0)
    predicted, target = (torch.randn(shape, generator=random).to(device, dtype) for _ in range(2))
    predicted.requires_grad_(backward)
    weight = None if weight_shape is None else torch.rand(weight_shape, generator=random).to(device, dtype)

    def ours() -> Tensor:
        return detops.ops.smooth_l1_loss(predicted, target, BETA, "sum", weight)

    def theirs() -> Tensor:
        if weight is None:
            return F.smooth_l1_loss(predicted, target, beta=BETA, reduction="sum")
        return (F.smooth_l1_loss(predicted, target, beta=BETA, reduction="none") * weight).sum()

    def gradient(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(loss(), predicted)[0] if backward else loss()

    weights = 0 if weight is None else weight.nbytes
    return Case(
        "smooth_l1_loss",
        name,
        run={"detops": gradient(ours), "pytorch": gradient(theirs)},
        bytes=predicted.nbytes + target.nbytes + weights + (predicted.nbytes if backward else 0),
        quick=quick,
        series=series,
        size=size,
    )
