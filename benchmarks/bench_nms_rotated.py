"""Rotated non-maximum suppression against a plain formulation: the matrix of overlaps, then a greedy loop.

torchvision has none. The matrix is torchvision's; results are checked against the loop over detops' own, since
torchvision's is wrong now and then.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case, agree

OPERATORS = ("nms_rotated", "nms_rotated_padded")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields clustered proposals at several sizes and thresholds, then disjoint boxes, then classes."""
    for n in (10, 1000, 5000):
        boxes, scores = workloads.proposals_clustered(n)
        dets, scores = workloads.rotated(boxes, 5, spread=0.2).to(device, dtype), scores.to(device, dtype)
        for threshold in (0.1, 0.5):
            series = f"clustered proposals @{threshold}"
            yield single(f"{n:,} clustered @{threshold}", dets, scores, threshold, n == 1000, series, n)
    boxes, scores = workloads.boxes_disjoint(5000)
    yield single("5,000 disjoint @0.5", workloads.rotated(boxes, 5).to(device, dtype), scores.to(device, dtype), 0.5)
    boxes, scores, labels = workloads.many_classes(20, 250)
    dets, scores, labels = workloads.rotated(boxes, 5).to(device, dtype), scores.to(device, dtype), labels.to(device)
    yield Case(
        "nms_rotated",
        "20 classes x 250 @0.5",
        run={
            "detops": lambda: detops.ops.nms_rotated(dets, scores, 0.5, labels, clockwise=False)[1],
            "pytorch": lambda: plain(dets, scores, 0.5, labels),
        },
        bytes=dets.nbytes + scores.nbytes + labels.nbytes,
        check=lambda actual, _: agree(actual, plain(dets, scores, 0.5, labels, detops.ops.box_iou)),
    )
    yield Case(
        "nms_rotated_padded",
        "20 classes x 250 @0.5, first 100",
        run={
            "detops": lambda: detops.ops.nms_rotated_padded(dets, scores, 0.5, 100, labels, clockwise=False)[0],
            "pytorch": lambda: plain(dets, scores, 0.5, labels)[:100],
        },
        bytes=dets.nbytes + scores.nbytes + labels.nbytes,
        check=lambda actual, _: agree(actual, plain(dets, scores, 0.5, labels, detops.ops.box_iou)[:100]),
    )


def single(
    name: str, dets: Tensor, scores: Tensor, threshold: float, quick: bool = False, series: str = "", size: int = 0
) -> Case:
    """One class; both sides must keep the same boxes in the same order."""
    return Case(
        "nms_rotated",
        name,
        run={
            "detops": lambda: detops.ops.nms_rotated(dets, scores, threshold, clockwise=False)[1],
            "pytorch": lambda: plain(dets, scores, threshold),
        },
        bytes=dets.nbytes + scores.nbytes,
        check=lambda actual, _: agree(actual, plain(dets, scores, threshold, overlaps=detops.ops.box_iou)),
        quick=quick,
        series=series,
        size=size,
    )


def plain(
    dets: Tensor,
    scores: Tensor,
    threshold: float,
    labels: Tensor | None = None,
    overlaps: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Indices of the boxes kept, highest score first; boxes (N, 5), radians, counter-clockwise."""
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order].to(torch.promote_types(dets.dtype, torch.float32))
    boxes = torch.cat([boxes[:, :4], boxes[:, 4:] * (180 / math.pi)], dim=1)
    above = (overlaps or torchvision.ops.box_iou)(boxes, boxes, fmt="cxcywhr") > threshold
    if labels is not None:
        above &= labels[order][:, None] == labels[order]
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~above[i, i + 1 :]
    return order[alive]
