"""IoU losses of pairs of boxes, forward and backward, against torchvision's."""

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case

OPERATORS = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every member of the family, its sum and each loss, and for GIoU a series over the number of pairs."""
    for op in OPERATORS:
        for pairs in (100_000, 512, 10):
            for backward in (False, True):
                direction = ", forward and backward" if backward else ", forward"
                yield case(op, f"{pairs:,} pairs{direction}", pairs, "sum", backward, device, dtype, pairs == 512)
        yield case(op, "100,000 pairs, no reduction, forward and backward", 100_000, "none", True, device, dtype)
    for pairs in (100, 1_000, 10_000):
        label = "pairs, forward and backward"
        yield case(OPERATORS[0], f"{pairs:,} {label}", pairs, "sum", True, device, dtype, series=label)


def case(
    op: str,
    name: str,
    pairs: int,
    reduction: str,
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool = False,
    series: str = "",
) -> Case:
    """Objects and predictions jittered round them; the gradient is that of the predictions."""
    targets = workloads.boxes_log_uniform(pairs, seed=1)
    noise = torch.randn(pairs, 4, generator=workloads.generator(2))
    size = (targets[:, 2:] - targets[:, :2]).repeat(1, 2)
    predicted = (targets + 0.1 * noise * size).to(device, dtype).requires_grad_(backward)
    targets = targets.to(device, dtype)
    ours, theirs = getattr(detops.ops, op), getattr(torchvision.ops, op)

    def run(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        def gradient() -> Tensor:
            loss = function(predicted, targets, reduction=reduction)
            return torch.autograd.grad(loss, predicted, torch.ones_like(loss))[0] if backward else loss

        return gradient

    return Case(
        op,
        name,
        run={"detops": run(ours), "torchvision": run(theirs)},
        bytes=predicted.nbytes * (2 if backward else 1) + targets.nbytes,
        quick=quick,
        series=series,
        size=pairs if series else 0,
    )
