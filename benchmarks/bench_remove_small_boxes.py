"""Filtering of boxes by size, against torchvision: nearly all kept, as proposals are, about half, and few."""

from collections.abc import Iterator

import torch
import torchvision

import detops

from . import workloads
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every anchor of a pyramid at three sizes, then a series over the number of boxes."""
    for name, min_size in (("nearly all kept", 1e-3), ("half kept", 24.0), ("few kept", 400.0)):
        yield case(f"242,991 boxes, {name}", 242_991, min_size, device, dtype, quick=min_size == 24)
    for n in (10, 100, 1000, 10_000, 100_000):
        yield case(f"{n:,} boxes", n, 1e-3, device, dtype, series="boxes, nearly all kept")


def case(
    name: str, n: int, min_size: float, device: torch.device, dtype: torch.dtype, quick: bool = False, series: str = ""
) -> Case:
    """Anchors, a few of which are empty."""
    boxes = workloads.anchors_fpn()[:n].clone()
    boxes[::50, 2:] = boxes[::50, :2]
    boxes = boxes.to(device, dtype)
    kept = len(torchvision.ops.remove_small_boxes(boxes, min_size))
    return Case(
        "remove_small_boxes",
        name,
        run={
            "detops": lambda: detops.ops.remove_small_boxes(boxes, min_size),
            "torchvision": lambda: torchvision.ops.remove_small_boxes(boxes, min_size),
        },
        bytes=boxes.nbytes + 8 * kept,
        quick=quick,
        series=series,
        size=n if series else 0,
    )
