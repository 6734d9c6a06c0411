"""Anchors of a feature pyramid against torchvision's ``AnchorGenerator``."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

import detops

from . import workloads
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields Faster R-CNN's pyramid, RetinaNet's nine anchors a location and a tiny one."""
    yield case("5 levels x 3, 242,991 anchors", workloads.PYRAMID, 1, device, dtype, quick=True)
    yield case("5 levels x 9, 728,973 anchors", workloads.PYRAMID, 3, device, dtype)
    yield case("5 levels of 2 x 2", [(2, 2)] * 5, 1, device, dtype)


def case(
    name: str,
    sizes: Sequence[tuple[int, int]],
    scales: int,
    device: torch.device,
    dtype: torch.dtype,
    quick: bool = False,
) -> Case:
    """Strides as torchvision has them: tensors on the device, made before."""
    octaves = [tuple(int(size * 2 ** (k / 3)) for k in range(scales)) for size in (32, 64, 128, 256, 512)]
    generator = AnchorGenerator(tuple(octaves), ((0.5, 1.0, 2.0),) * len(sizes))
    generator.set_cell_anchors(dtype, device)
    cell_anchors: list[Tensor] = generator.cell_anchors
    strides = [(workloads.IMAGE_SIZE[0] // h, workloads.IMAGE_SIZE[1] // w) for h, w in sizes]
    steps = [[torch.tensor(step, device=device) for step in pair] for pair in strides]
    return Case(
        "anchor_grid",
        name,
        run={
            "detops": lambda: detops.ops.anchor_grid(cell_anchors, sizes, strides),
            "torchvision": lambda: torch.cat(generator.grid_anchors([list(size) for size in sizes], steps)),
        },
        bytes=sum(h * w for h, w in sizes) * len(cell_anchors[0]) * 4 * dtype.itemsize,
        quick=quick,
    )
