"""Boxes from offsets and back, against torchvision's ``BoxCoder``: every anchor of an image, a head's classes."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

import detops

from . import workloads
from .common import Case

OPERATORS = ("decode_boxes", "encode_boxes")
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of Faster R-CNN's head


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields every anchor of a pyramid, clipped and not, backward too, proposals by class and a few boxes."""
    anchors = workloads.anchors_fpn().to(device, dtype)
    proposals = workloads.proposals_clustered(1000)[0].to(device, dtype)
    yield decode("242,991 anchors, clipped", anchors, 1, clipped=True, quick=True)
    yield decode("242,991 anchors, clipped, small ones removed", anchors, 1, clipped=True, filtered=True)
    yield decode("242,991 anchors", anchors, 1)
    yield decode("242,991 anchors, forward and backward", anchors, 1, backward=True)
    yield decode("1,000 proposals x 91 classes, clipped", proposals, 91, clipped=True)
    yield decode("10 boxes, clipped", proposals[:10], 1, clipped=True)
    for n in (100, 1000, 10_000, 100_000):
        yield decode(f"{n:,} anchors, clipped", anchors[:n], 1, clipped=True, series="anchors, clipped", size=n)
    for name, others in (
        ("242,991 anchors", anchors),
        ("512 proposals", proposals[:512]),
        ("10 boxes", proposals[:10]),
    ):
        yield encode(name, others, quick=len(others) == 512)


def decode(
    name: str,
    anchors: Tensor,
    classes: int,
    clipped: bool = False,
    filtered: bool = False,
    backward: bool = False,
    quick: bool = False,
    series: str = "",
    size: int = 0,
) -> Case:
    """Offsets of a few tenths, as a trained head's."""
    n, coder = len(anchors), BoxCoder(WEIGHTS)
    deltas = torch.randn(n, 4 * classes, generator=workloads.generator(0)).to(anchors).requires_grad_(backward)
    image_size = workloads.IMAGE_SIZE if clipped else None

    def finish(boxes: Tensor, remove_small: object) -> Tensor | tuple[Tensor, Tensor]:
        if backward:
            return torch.autograd.grad(boxes.sum(), deltas)[0]
        return (boxes, remove_small(boxes.view(-1, 4), 1e-3)) if filtered else boxes  # type: ignore[operator]

    def ours() -> Tensor | tuple[Tensor, Tensor]:
        boxes = detops.ops.decode_boxes(deltas.view(n, classes, 4), anchors[:, None], WEIGHTS, image_size=image_size)
        return finish(boxes, detops.ops.remove_small_boxes)

    def theirs() -> Tensor | tuple[Tensor, Tensor]:
        boxes = coder.decode(deltas, [anchors])
        if clipped:
            boxes = torchvision.ops.clip_boxes_to_image(boxes, workloads.IMAGE_SIZE)
        return finish(boxes, torchvision.ops.remove_small_boxes)

    return Case(
        "decode_boxes",
        name,
        run={"detops": ours, "torchvision": theirs},
        bytes=(2 + backward) * deltas.nbytes + anchors.nbytes,
        quick=quick,
        check=close_in_pixels,
        series=series,
        size=size,
    )


def encode(name: str, anchors: Tensor, quick: bool = False) -> Case:
    """Boxes a little off their anchors."""
    boxes = anchors + torch.rand(anchors.shape, generator=workloads.generator(0)).to(anchors)
    anchors = anchors + torch.tensor([0.0, 0, 2, 2]).to(anchors)  # clipped proposals may have no size
    boxes = boxes + torch.tensor([0.0, 0, 2, 2]).to(anchors)
    coder = BoxCoder(WEIGHTS)
    return Case(
        "encode_boxes",
        name,
        run={
            "detops": lambda: detops.ops.encode_boxes(boxes, anchors, WEIGHTS),
            "torchvision": lambda: coder.encode([boxes], [anchors])[0],
        },
        bytes=3 * boxes.nbytes,
        check=close_in_pixels,
        quick=quick,
    )


def close_in_pixels(actual: Tensor | tuple[Tensor, Tensor], expected: Tensor | tuple[Tensor, Tensor]) -> None:
    """In half precision torchvision rounds every intermediate value: pixels, where the coordinates are thousands."""
    a, e = (t if isinstance(t, Tensor) else t[0] for t in (actual, expected))  # small ones may differ by the last bit
    eps = torch.finfo(e.dtype).eps
    torch.testing.assert_close(a, e, rtol=64 * eps, atol=8192 * eps)
