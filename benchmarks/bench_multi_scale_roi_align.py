"""RoIAlign from a feature pyramid against torchvision's module: proposals of an image, a training step, tiny maps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import TOLERANCES, Case

Pooled = Callable[[], Tensor]


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields forward and backward on P2 to P5 in both layouts, several images, then tiny calls and a series."""
    for layout, memory_format in (("", torch.contiguous_format), (", channels_last", torch.channels_last)):
        levels = pyramid(1, device, dtype, memory_format)
        boxes = [workloads.proposals_clustered(1000)[0].to(device)]
        yield forward(f"P2 to P5, 256 channels, 1,000 boxes{layout}", levels, boxes, quick=not layout)
        some = [workloads.proposals_clustered(512)[0].to(device)]
        yield backward(f"P2 to P5, 256 channels, 512 boxes, forward and backward{layout}", levels, some)
    pair = pyramid(2, device, dtype)
    of_two = [workloads.proposals_clustered(1000, seed=seed)[0].to(device) for seed in (1, 2)]
    yield forward("P2 to P5, 2 images, 2 x 1,000 boxes", pair, of_two)
    yield backward(
        "P2 to P5, 2 images, 2 x 512 boxes, forward and backward", pair, [boxes[:512] for boxes in of_two], quick=True
    )
    levels = pyramid(1, device, dtype)
    for n in (1, 10, 100, 3000):
        boxes = [workloads.proposals_clustered(n)[0].to(device)]
        yield forward(f"P2 to P5, 256 channels, {n:,} boxes", levels, boxes, series="boxes", number=n)
    tiny = [torch.randn(1, 3, 8 >> i, 8 >> i, generator=workloads.generator(i)).to(device, dtype) for i in range(4)]
    box = [torch.tensor([[1.0, 1.0, 24.0, 24.0]], device=device)]
    yield forward("4 levels of 1x3x8x8 to 1x3x1x1, 1 box", tiny, box, image=(32, 32))
    yield backward("4 levels of 1x3x8x8 to 1x3x1x1, 1 box, forward and backward", tiny, box, image=(32, 32))


def pyramid(
    images: int, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> list[Tensor]:
    """P2 to P5 of 256 channels."""
    maps = [workloads.pyramid_level(stride, images=images, seed=stride) for stride in (4, 8, 16, 32)]
    return [level.to(device, dtype, memory_format=memory_format) for level in maps]


def sides(levels: list[Tensor], boxes: list[Tensor], image: tuple[int, int]) -> tuple[dict[str, Pooled], str]:
    """Both modules on the same maps; torchvision has no bfloat16 on the CPU, and wants boxes of the maps' dtype."""
    x, names = {str(i): level for i, level in enumerate(levels)}, [str(i) for i in range(len(levels))]
    shapes = [image] * len(boxes)
    ours = detops.ops.MultiScaleRoIAlign(names, 7, 2)
    run: dict[str, Pooled] = {"detops": lambda: ours(x, boxes, shapes)}
    if levels[0].dtype not in (torch.float32, torch.float64) and not levels[0].is_cuda:
        return run, "torchvision's is wrong in half precision or missing: coordinates and sums in half"
    theirs, peer_boxes = torchvision.ops.MultiScaleRoIAlign(names, 7, 2), [b.to(levels[0].dtype) for b in boxes]
    run["torchvision"] = lambda: theirs(x, peer_boxes, shapes)
    return run, ""


def forward(
    name: str,
    levels: list[Tensor],
    boxes: list[Tensor],
    image: tuple[int, int] = workloads.IMAGE_SIZE,
    quick: bool = False,
    series: str = "",
    number: int = 0,
) -> Case:
    """One call."""
    run, note = sides(levels, boxes, image)
    of_boxes, of_bins = bytes_of(boxes), bytes_of_bins(levels, boxes)
    least = min(bytes_of(levels), of_bins)  # the pixels touched are at least about as many as the bins, or all
    return Case(
        "multi_scale_roi_align",
        name,
        dict[str, Callable[[], Any]](run),
        least + of_boxes + of_bins,
        quick=quick,
        series=series,
        size=number,
        note=note,
    )


def backward(
    name: str,
    levels: list[Tensor],
    boxes: list[Tensor],
    image: tuple[int, int] = workloads.IMAGE_SIZE,
    quick: bool = False,
) -> Case:
    """Forward and backward through autograd."""
    leaves = [level.detach().clone().requires_grad_() for level in levels]
    count = sum(len(b) for b in boxes)
    grad = torch.randn(count, levels[0].shape[1], 7, 7, generator=workloads.generator(1)).to(levels[0])
    pooled, note = sides(leaves, boxes, image)

    def step(pool: Pooled) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(pool(), leaves, grad)

    least = 2 * bytes_of(levels) + 2 * grad.nbytes + bytes_of(boxes)
    run: dict[str, Callable[[], Any]] = {side: step(pool) for side, pool in pooled.items()}
    return Case("multi_scale_roi_align", name, run, least, check=agree_to_scale, quick=quick, note=note)


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def bytes_of_bins(levels: list[Tensor], boxes: list[Tensor]) -> int:
    return sum(len(b) for b in boxes) * levels[0].shape[1] * 49 * levels[0].itemsize


def agree_to_scale(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Gradients are sums over many regions that may nearly cancel: errors are relative to the largest."""
    for a, e in zip(actual, expected, strict=True):
        rtol, _ = TOLERANCES[e.dtype]
        torch.testing.assert_close(a, e, rtol=rtol, atol=rtol * e.abs().max().item())
