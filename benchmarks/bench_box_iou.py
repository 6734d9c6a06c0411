"""Pairwise overlap against torchvision: random pairs, SSD's default boxes, a whole pyramid of anchors."""

from collections.abc import Iterator

import torch
import torchvision

import detops

from . import workloads
from .common import Case, agree

OPERATORS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every member of the family at every size, and for box_iou a series over the number of boxes."""
    for op in OPERATORS:
        for n in (10, 30, 100, 300, 1000, 3000) if op == "box_iou" else (10, 1000):
            boxes1, boxes2 = workloads.boxes_log_uniform(n, seed=1), workloads.ground_truth(n, seed=2)
            case = pairwise(op, f"{n:,} x {n:,}", boxes1.to(device, dtype), boxes2.to(device, dtype), quick=n == 1000)
            case.series, case.size = "n x n boxes" if op == "box_iou" else "", n
            yield case
        for name, anchors, objects in (
            ("SSD 8,732 x 50", workloads.anchors_ssd(), workloads.ground_truth(50, seed=2)),
            ("FPN 242,991 x 30", workloads.anchors_fpn(), workloads.ground_truth(30, seed=2)),
        ):
            quick = op == "box_iou" and name.startswith("SSD")
            yield pairwise(op, name, anchors.to(device, dtype), objects.to(device, dtype), quick)


def pairwise(op: str, name: str, boxes1: torch.Tensor, boxes2: torch.Tensor, quick: bool) -> Case:
    """An operator of the family on boxes (N, 4) and (M, 4).

    The result is float32 for half-precision boxes. There the peer subtracts coordinates in half precision, so that
    detops is checked against the peer on the same boxes in float32.
    """
    ours, theirs = getattr(detops.ops, op), getattr(torchvision.ops, op)
    half = boxes1.itemsize < 4
    itemsize = max(boxes1.itemsize, 4)
    return Case(
        op,
        name,
        run={"detops": lambda: ours(boxes1, boxes2), "torchvision": lambda: theirs(boxes1, boxes2)},
        bytes=boxes1.nbytes + boxes2.nbytes + len(boxes1) * len(boxes2) * itemsize,
        check=(lambda actual, _: agree(actual, theirs(boxes1.float(), boxes2.float()))) if half else agree,
        quick=quick,
        note="peer less exact" if half else "",
    )
