"""Pairwise overlap against torchvision: random pairs, SSD's default boxes, a whole pyramid of anchors."""

from collections.abc import Iterator

import torch
import torchvision

import detops

from . import workloads
from .common import Case, agree

OPERATORS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every member of the family at every size, then the series over the number of boxes."""
    pairs = {
        "10 x 10": (workloads.boxes_log_uniform(10, seed=1), workloads.ground_truth(10, seed=2)),
        "1,000 x 1,000": (workloads.boxes_log_uniform(1000, seed=1), workloads.ground_truth(1000, seed=2)),
        "SSD 8,732 x 50": (workloads.anchors_ssd(), workloads.ground_truth(50, seed=2)),
        "FPN 242,991 x 30": (workloads.anchors_fpn(), workloads.ground_truth(30, seed=2)),
    }
    for op in OPERATORS:
        for name, (boxes1, boxes2) in pairs.items():
            quick = name == "1,000 x 1,000" or (op == "box_iou" and name == "SSD 8,732 x 50")
            yield pairwise(op, name, boxes1.to(device, dtype), boxes2.to(device, dtype), quick=quick)
    for n in (30, 100, 300, 3000):
        boxes = workloads.boxes_log_uniform(n, seed=n).to(device, dtype)
        yield pairwise("box_iou", f"{n:,} x {n:,}", boxes, boxes.flip(0), series="n x n boxes", size=n)


def pairwise(
    op: str, name: str, boxes1: torch.Tensor, boxes2: torch.Tensor, quick: bool = False, series: str = "", size: int = 0
) -> Case:
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
        series=series,
        size=size,
    )
