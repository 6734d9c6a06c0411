"""Focal loss of RetinaNet's anchors, dense targets and labels, forward and backward, against torchvision's."""

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case

OPERATORS = ("sigmoid_focal_loss", "sigmoid_focal_loss_from_labels")
CLASSES = 91


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields a pyramid's anchors, SSD's and a handful; sum and each loss; then a series over the number of rows."""
    for op in OPERATORS:
        for name, rows in (("242,991 x 91", 242_991), ("8,732 x 91", 8_732), ("10 x 91", 10)):
            for direction in (", forward", ", forward and backward"):
                quick = rows == 8_732
                yield case(op, name + direction, rows, "sum", "and" in direction, device, dtype, quick)
        yield case(op, "8,732 x 91, no reduction, forward and backward", 8_732, "none", True, device, dtype)
        for rows in (10, 100, 1_000, 10_000):
            yield case(op, f"{rows:,} rows", rows, "sum", True, device, dtype, series="n x 91, forward and backward")
    yield soft("8,732 x 91, soft targets, forward and backward", 8_732, device, dtype)


def labels_of(rows: int) -> Tensor:
    """As a matcher leaves them: 1 row in 500 has an object, 1 in 50 is ignored; (rows,)."""
    random = workloads.generator(1)
    draw = torch.rand(rows, generator=random)
    classes = torch.randint(CLASSES, (rows,), generator=random)
    return torch.where(draw < 1 / 500, classes, torch.where(draw < 1 / 50, -1, CLASSES))


def case(
    op: str,
    name: str,
    rows: int,
    reduction: str,
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool = False,
    series: str = "",
) -> Case:
    """Logits as at the start of training: a sigmoid of about 0.01. The peer builds its one-hot targets beforehand."""
    logits = (torch.randn(rows, CLASSES, generator=workloads.generator(0)) - 4.6).to(device, dtype)
    from_labels = op == "sigmoid_focal_loss_from_labels"
    labels = labels_of(rows) if from_labels else labels_of(rows).clamp(min=0)
    known = (labels >= 0).to(device)
    targets = (labels[:, None] == torch.arange(CLASSES)).to(device, dtype)
    labels = labels.to(device)
    logits.requires_grad_(backward)

    def ours() -> Tensor:
        if from_labels:
            return detops.ops.sigmoid_focal_loss_from_labels(logits, labels, reduction=reduction)
        return detops.ops.sigmoid_focal_loss(logits, targets, reduction=reduction)

    def theirs() -> Tensor:
        if not from_labels:
            return torchvision.ops.sigmoid_focal_loss(logits, targets, reduction=reduction)
        losses = torchvision.ops.sigmoid_focal_loss(logits, targets) * known[:, None]
        return losses.sum() if reduction == "sum" else losses

    return compare(
        op, name, logits, ours, theirs, labels.nbytes if from_labels else targets.nbytes, quick, series, rows
    )


def soft(name: str, rows: int, device: torch.device, dtype: torch.dtype) -> Case:
    """Targets between 0 and 1, as of label smoothing or distillation."""
    random = workloads.generator(0)
    logits = torch.randn(rows, CLASSES, generator=random).to(device, dtype).requires_grad_()
    targets = torch.rand(rows, CLASSES, generator=random).to(device, dtype)

    def loss_of(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: function(logits, targets, reduction="sum")

    ours, theirs = loss_of(detops.ops.sigmoid_focal_loss), loss_of(torchvision.ops.sigmoid_focal_loss)
    return compare("sigmoid_focal_loss", name, logits, ours, theirs, targets.nbytes)


def compare(
    op: str,
    name: str,
    logits: Tensor,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    target_bytes: int,
    quick: bool = False,
    series: str = "",
    size: int = 0,
) -> Case:
    """Backward if the logits require a gradient."""

    def gradient(loss: Callable[[], Tensor]) -> Tensor:
        losses = loss()
        return torch.autograd.grad(losses, logits, torch.ones_like(losses))[0]

    def run(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return (lambda: gradient(loss)) if logits.requires_grad else loss

    moved = logits.nbytes * (2 if logits.requires_grad else 1) + target_bytes
    sides = {"detops": run(ours), "torchvision": run(theirs)}
    return Case(op, name, run=sides, bytes=moved, quick=quick, series=series, size=size if series else 0)
