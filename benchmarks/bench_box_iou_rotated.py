"""Overlap of rotated boxes against torchvision: boxes of every size in an image, anchors against a few objects."""

import math
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields a series over the number of boxes, anchors of one level, then boxes of which all overlap."""
    for n in (10, 100, 1000, 3000):
        boxes1, boxes2 = (workloads.rotated(workloads.boxes_log_uniform(n, seed=s), s) for s in (1, 2))
        yield pairwise(
            f"{n:,} x {n:,}", boxes1.to(device, dtype), boxes2.to(device, dtype), n == 1000, "n x n boxes", n
        )
    anchors, objects = workloads.anchors_fpn()[-20_000:], workloads.ground_truth(30)
    yield pairwise(
        "20,000 anchors x 30",
        workloads.rotated(anchors, 1).to(device, dtype),
        workloads.rotated(objects, 2).to(device, dtype),
    )
    crowd = workloads.rotated(workloads.boxes_log_uniform(500, image_size=(64, 64), smallest=40, largest=60), 3)
    yield pairwise("500 x 500, all overlap", crowd.to(device, dtype), crowd.to(device, dtype))


def pairwise(name: str, boxes1: Tensor, boxes2: Tensor, quick: bool = False, series: str = "", size: int = 0) -> Case:
    """Boxes (N, 5) and (M, 5); torchvision takes degrees, counter-clockwise, and is compared where it is right."""
    run = {"detops": lambda: detops.ops.box_iou_rotated(boxes1, boxes2, clockwise=False)}
    note = "torchvision has no half precision"
    if boxes1.itemsize >= 4:
        theirs = [torch.cat([b[:, :4], b[:, 4:] * (180 / math.pi)], dim=1) for b in (boxes1, boxes2)]
        run["torchvision"] = lambda: torchvision.ops.box_iou(*theirs, fmt="cxcywhr")
        note = ""
    written = len(boxes1) * len(boxes2) * max(boxes1.itemsize, 4)
    return Case(
        "box_iou_rotated",
        name,
        run,
        boxes1.nbytes + boxes2.nbytes + written,
        check=agree_but_for_a_few,
        quick=quick,
        note=note,
        series=series,
        size=size,
    )


def agree_but_for_a_few(actual: Tensor, expected: Tensor) -> None:
    """Of a million of torchvision's overlaps, one is wrong or none."""
    wrong = ((actual - expected).abs() > 1e-4).sum().item()
    assert wrong <= 1 + 2e-6 * actual.numel(), f"{wrong} of {actual.numel()} overlaps differ"
