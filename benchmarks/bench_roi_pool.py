"""RoI pooling against torchvision: VGG16's last map, as in Fast R-CNN, and tiny maps."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import TOLERANCES, Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields forward, and forward with backward, on VGG16's map, then tiny maps and the series over boxes."""
    features = workloads.pyramid_level(16, 512).to(device, dtype)
    for n in (300, 2000):
        rois = workloads.to_rois(workloads.proposals_clustered(n)[0]).to(device)
        yield forward(f"VGG16 1x512x50x76, {n:,} boxes", features, rois, quick=n == 300)
        yield backward(f"VGG16 1x512x50x76, {n:,} boxes, forward and backward", features, rois, quick=n == 300)
        interleaved = features.contiguous(memory_format=torch.channels_last)
        yield forward(f"VGG16 1x512x50x76, {n:,} boxes, channels_last", interleaved, rois)
    for n in (1, 10, 100, 1000):
        rois = workloads.to_rois(workloads.proposals_clustered(n)[0]).to(device)
        yield forward(f"VGG16 1x512x50x76, {n:,} box{'es' * (n > 1)}", features, rois, series="boxes", number=n)
    tiny = torch.randn(1, 3, 8, 8, generator=workloads.generator(0)).to(device, dtype)
    yield forward("1x3x8x8, 1 box", tiny, torch.tensor([[0.0, 1, 1, 6, 6]], device=device), scale=1.0)


def forward(
    name: str,
    features: Tensor,
    rois: Tensor,
    scale: float = 1 / 16,
    quick: bool = False,
    series: str = "",
    number: int = 0,
) -> Case:
    """One call without a gradient; torchvision has no bfloat16 on the CPU, and wants boxes of the features' dtype."""
    run: dict[str, Callable[[], Any]] = {"detops": lambda: detops.ops.roi_pool(features, rois, 7, scale)}
    note = ""
    if features.dtype in (torch.float32, torch.float64) or features.is_cuda:
        peer_rois = rois.to(features.dtype)
        run["torchvision"] = lambda: torchvision.ops.roi_pool(features, peer_rois, 7, scale)
    else:
        note = "torchvision's is wrong in half precision or missing: coordinates in half"
    size_out = len(rois) * features.shape[1] * 49 * features.itemsize
    least = min(features.nbytes, size_out)
    return Case(
        "roi_pool", name, run, least + rois.nbytes + size_out, quick=quick, series=series, size=number, note=note
    )


def backward(name: str, features: Tensor, rois: Tensor, quick: bool = False) -> Case:
    """Forward and backward through autograd."""
    leaf = features.detach().clone().requires_grad_()
    grad = torch.randn(len(rois), features.shape[1], 7, 7, generator=workloads.generator(1)).to(features)

    def step(pool: Callable[..., Tensor], boxes: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(pool(leaf, boxes, 7, 1 / 16), leaf, grad)[0]

    run = {"detops": step(detops.ops.roi_pool, rois)}
    if features.dtype in (torch.float32, torch.float64) or features.is_cuda:
        run["torchvision"] = step(torchvision.ops.roi_pool, rois.to(features.dtype))
    least = 3 * features.nbytes + 2 * grad.nbytes + rois.nbytes
    return Case("roi_pool", name, run, least, check=agree_to_scale, quick=quick)


def agree_to_scale(actual: Tensor, expected: Tensor) -> None:
    """Gradients are sums over many regions that may nearly cancel: errors are relative to the largest."""
    rtol, _ = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * expected.abs().max().item())
