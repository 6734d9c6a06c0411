"""Boxes around masks against torchvision: instances of an image, of a mask head, empty masks, full ones."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields boolean masks and masks of the dtype."""
    height, width = workloads.IMAGE_SIZE
    instances = filled(workloads.ground_truth(20), height, width).to(device)
    yield case("20 x 800 x 1216, bool", instances, quick=True)
    yield case(f"20 x 800 x 1216, {str(dtype).removeprefix('torch.')}", instances.to(dtype))
    yield case("20 x 800 x 1216, empty", torch.zeros_like(instances))
    yield case("20 x 800 x 1216, full", torch.ones_like(instances))
    head = filled(workloads.ground_truth(100) * 28 / height, 28, 28).to(device)
    yield case("100 x 28 x 28, bool", head)
    yield case("1 x 28 x 28, bool", head[:1])


def filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """The ellipse in each box."""
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    cx, cy = (boxes[:, :2] + boxes[:, 2:]).T[..., None, None] / 2
    w, h = (boxes[:, 2:] - boxes[:, :2]).T[..., None, None] / 2
    return ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < 1


def case(name: str, masks: Tensor, quick: bool = False) -> Case:
    """Bytes are those of all masks, of which a box needs only the part outside it."""
    return Case(
        "masks_to_boxes",
        name,
        run={
            "detops": lambda: detops.ops.masks_to_boxes(masks),
            "torchvision": lambda: torchvision.ops.masks_to_boxes(masks),
        },
        bytes=masks.nbytes + len(masks) * 16,
        quick=quick,
    )
