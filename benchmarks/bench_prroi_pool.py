"""Precise RoI pooling against two matrix products in plain PyTorch: torchvision has none."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import detops

from . import workloads
from .bench_roi_pool import agree_to_scale
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields proposals on one level, forward and with both gradients, in both layouts; large and tiny maps."""
    features = workloads.pyramid_level(16).to(device, dtype)
    rois = workloads.to_rois(workloads.proposals_clustered(512)[0]).to(device)
    last = features.contiguous(memory_format=torch.channels_last)
    yield forward("P4 1x256x50x76, 512 boxes", features, rois, 1 / 16, quick=True)
    yield forward("P4 1x256x50x76, 512 boxes, channels_last", last, rois, 1 / 16)
    yield backward("P4 1x256x50x76, 512 boxes, gradient of the map", features, rois, 1 / 16, (0,))
    yield backward("P4 1x256x50x76, 512 boxes, gradient of the boxes", features, rois, 1 / 16, (1,))
    yield backward("P4 1x256x50x76, 512 boxes, both gradients", features, rois, 1 / 16, (0, 1))
    yield backward("P4 1x256x50x76, 512 boxes, both gradients, channels_last", last, rois, 1 / 16, (0, 1))
    fine = workloads.pyramid_level(4).to(device, dtype)
    small = workloads.to_rois(workloads.boxes_log_uniform(1000, 16, 112, seed=2)).to(device)
    yield forward("P2 1x256x200x304, 64 boxes", fine, small[:64], 1 / 4)
    alone = {"detops": lambda: detops.ops.prroi_pool(fine, small, 7, 1 / 4)}  # the peer would need gigabytes
    yield Case("prroi_pool", "P2 1x256x200x304, 1,000 boxes", alone, moved(fine, small))
    tiny = torch.randn(1, 3, 8, 8, generator=workloads.generator(0)).to(device, dtype)
    box = torch.tensor([[0.0, 1.2, 1.3, 6.4, 6.1]], device=device)
    yield forward("1x3x8x8, 1 box", tiny, box, 1.0)
    yield backward("1x3x8x8, 1 box, both gradients", tiny, box, 1.0, (0, 1))


def forward(name: str, features: Tensor, rois: Tensor, scale: float, quick: bool = False) -> Case:
    """One call, 7 x 7 bins."""
    run: dict[str, Callable[[], Tensor]] = {
        "detops": lambda: detops.ops.prroi_pool(features, rois, 7, scale),
        "pytorch": lambda: plain(features, rois, 7, scale),
    }
    return Case("prroi_pool", name, run, moved(features, rois), quick=quick)


def backward(name: str, features: Tensor, rois: Tensor, scale: float, of: tuple[int, ...]) -> Case:
    """Forward and the gradients of the map (0), of the boxes (1), or both."""
    leaves = [features.detach().requires_grad_(0 in of), rois.detach().requires_grad_(1 in of)]
    grad = torch.randn(len(rois), features.shape[1], 7, 7, generator=workloads.generator(1)).to(features)

    def step(pool: Callable[[Tensor, Tensor, int, float], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(pool(leaves[0], leaves[1], 7, scale), [leaves[i] for i in of], grad)

    def check(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
        for got, wanted in zip(actual, expected, strict=True):
            agree_to_scale(got.to(features.dtype), wanted.to(features.dtype))

    run = {"detops": step(detops.ops.prroi_pool), "pytorch": step(plain)}
    least = moved(features, rois) + grad.nbytes + sum(leaves[i].nbytes for i in of)
    return Case("prroi_pool", name, run, least, check=check)


def moved(features: Tensor, rois: Tensor) -> int:
    """Least bytes: the pixels touched are at least about as many as the bins, or all."""
    written = len(rois) * features.shape[1] * 49 * features.itemsize
    return min(features.nbytes, written) + rois.nbytes + written


def plain(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """Rows and columns of a map by matrices of the hats' means, one product for all regions, then one each; one image.

    In float32 at least, the matrices in float64: they are differences.
    """
    dtype, features = features.dtype, features.to(torch.promote_types(features.dtype, torch.float32))
    edges = rois.double()
    across, down = (hat_means(edges[:, i], edges[:, i + 2], size, scale, features.shape[4 - i]) for i in (1, 2))
    channels, height, width = features.shape[1:]
    rows = down.to(features).flatten(0, 1) @ features[0].transpose(0, 1).reshape(height, -1)  # (K PH, C W)
    pooled = rows.view(len(rois), size * channels, width) @ across.to(features).transpose(1, 2)  # (K, PH C, PW)
    return pooled.view(len(rois), size, channels, size).transpose(1, 2).to(dtype)


def hat_means(low: Tensor, high: Tensor, bins: int, scale: float, pixels: int) -> Tensor:
    """The mean of each pixel's hat over each bin between two edges (K,), (K, bins, pixels)."""
    part = torch.linspace(0, 1, bins + 1, dtype=low.dtype, device=low.device)
    edges = scale * (low[:, None] + (high - low)[:, None] * part)
    offset = (edges[..., None] - torch.arange(pixels, device=low.device)).clamp(-1, 1)
    integral = offset - offset * offset.abs() / 2
    return integral.diff(dim=1) / edges.diff(dim=1)[..., None]
