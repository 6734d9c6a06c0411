"""RoIAlign against torchvision: proposals on a pyramid's finest level, masks cropped from images, tiny maps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import TOLERANCES, Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields forward and backward on P2, other grids, then worst cases and the series over the number of boxes."""
    features = workloads.pyramid_level(4).to(device, dtype)
    layouts = {"": features, ", channels_last": features.contiguous(memory_format=torch.channels_last)}
    for n in (512, 1000):
        rois = small_regions(n).to(device)
        for layout, maps in layouts.items():
            yield forward(f"P2 1x256x200x304, {n} boxes{layout}", maps, rois, quick=n == 512 and not layout)
        yield backward(f"P2 1x256x200x304, {n} boxes, forward and backward", features, rois, quick=n == 512)
    rois = small_regions(512).to(device)
    yield forward("P2 1x256x200x304, 512 boxes, 14 x 14", features, rois, size=14)
    yield forward("P2 1x256x200x304, 512 boxes, adaptive sampling", features, rois, ratio=0)
    for n in (1, 10, 100, 3000):
        yield forward(f"P2 1x256x200x304, {n:,} boxes", features, small_regions(n).to(device), series="boxes", number=n)
    proposals = workloads.to_rois(workloads.proposals_clustered(1000)[0]).to(device)
    yield forward("P2 1x256x200x304, 1,000 clustered boxes of any size", features, proposals)
    small = workloads.pyramid_level(64).to(device, dtype)
    yield forward("P6 1x256x13x19, 1 box", small, proposals[:1], scale=1 / 64)
    tiny = torch.randn(1, 3, 8, 8, generator=workloads.generator(0)).to(device, dtype)
    yield forward("1x3x8x8, 1 box", tiny, torch.tensor([[0.0, 1, 1, 6, 6]], device=device), scale=1.0)
    masks = torch.rand(20, 1, 800, 1216, generator=workloads.generator(0)).gt(0.5).to(device, dtype)
    boxes = list(workloads.ground_truth(20).to(device)[:, None])
    yield forward("masks 20x1x800x1216, 28 x 28", masks, workloads.to_rois(boxes), size=28, ratio=0, scale=1.0)


def small_regions(n: int) -> Tensor:
    """What a pyramid sends to its finest level, (n, 5)."""
    return workloads.to_rois(workloads.boxes_log_uniform(n, 16, 112, seed=2))


def forward(
    name: str,
    features: Tensor,
    rois: Tensor,
    size: int = 7,
    ratio: int = 2,
    scale: float = 0.25,
    quick: bool = False,
    series: str = "",
    number: int = 0,
) -> Case:
    """One call; torchvision has no bfloat16 on the CPU, and wants boxes of the features' dtype."""
    run: dict[str, Callable[[], Any]] = {"detops": lambda: detops.ops.roi_align(features, rois, size, scale, ratio)}
    note = ""
    if features.dtype in (torch.float32, torch.float64) or features.is_cuda:
        peer_rois = rois.to(features.dtype)
        run["torchvision"] = lambda: torchvision.ops.roi_align(features, peer_rois, size, scale, ratio)
    else:
        note = "torchvision's is wrong in half precision or missing: coordinates and sums in half"
    size_out = len(rois) * features.shape[1] * size * size * features.itemsize
    least = min(features.nbytes, size_out)  # the pixels touched are at least about as many as the bins, or all
    return Case(
        "roi_align", name, run, least + rois.nbytes + size_out, quick=quick, series=series, size=number, note=note
    )


def backward(name: str, features: Tensor, rois: Tensor, quick: bool = False) -> Case:
    """Forward and backward through autograd."""
    leaf = features.detach().clone().requires_grad_()
    grad = torch.randn(len(rois), features.shape[1], 7, 7, generator=workloads.generator(1)).to(features)

    def step(pool: Callable[..., Tensor], boxes: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(pool(leaf, boxes, 7, 0.25, 2), leaf, grad)[0]

    run = {"detops": step(detops.ops.roi_align, rois)}
    if features.dtype in (torch.float32, torch.float64) or features.is_cuda:
        run["torchvision"] = step(torchvision.ops.roi_align, rois.to(features.dtype))
    least = 2 * features.nbytes + 2 * grad.nbytes + rois.nbytes
    return Case("roi_align", name, run, least, check=agree_to_scale, quick=quick)


def agree_to_scale(actual: Tensor, expected: Tensor) -> None:
    """Gradients are sums over many regions that may nearly cancel: errors are relative to the largest."""
    rtol, _ = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * expected.abs().max().item())
