"""Rotated RoIAlign against ``torch.nn.functional.grid_sample``: torchvision has none."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

import detops

from . import workloads
from .bench_roi_pool import agree_to_scale
from .common import Case

SIZE, RATIO = 7, 2


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields 500 boxes on a map of 100 x 100, forward and with backward, in both layouts, then a tiny case."""
    features = torch.randn(1, 256, 100, 100, generator=workloads.generator(0)).to(device, dtype)
    rois = regions(500, 100).to(device)
    yield forward("1x256x100x100, 500 boxes", features, rois, quick=True)
    yield forward("1x256x100x100, 500 boxes, channels_last", features.to(memory_format=torch.channels_last), rois)
    yield backward("1x256x100x100, the boxes inside, forward and backward", features, rois)
    adaptive = {"detops": lambda: detops.ops.roi_align_rotated(features, rois, SIZE)}
    yield Case("roi_align_rotated", "1x256x100x100, 500 boxes, adaptive sampling", adaptive, moved(features, rois))
    tiny = torch.randn(1, 3, 8, 8, generator=workloads.generator(0)).to(device, dtype)
    yield forward("1x3x8x8, 1 box", tiny, regions(1, 8).to(device))


def regions(n: int, side: int) -> Tensor:
    """Boxes of up to half the map, at any angle, (n, 6)."""
    boxes = workloads.boxes_log_uniform(n, side / 12, side / 2, seed=2, image_size=(side, side))
    return torch.cat([torch.zeros(n, 1), workloads.rotated(boxes, 3)], dim=1)


def moved(features: Tensor, rois: Tensor) -> int:
    """Least bytes: the pixels touched are at least about as many as the bins, or all."""
    written = len(rois) * features.shape[1] * SIZE * SIZE * features.itemsize
    return min(features.nbytes, written) + rois.nbytes + written


def forward(name: str, features: Tensor, rois: Tensor, quick: bool = False) -> Case:
    """One call; the peer lacks the border rule, so that regions are compared away from the border."""
    return Case(
        "roi_align_rotated",
        name,
        run={
            "detops": lambda: detops.ops.roi_align_rotated(features, rois, SIZE, sampling_ratio=RATIO),
            "pytorch": lambda: plain(features, rois),
        },
        bytes=moved(features, rois),
        check=agree_inside(rois, features.shape[-1]),
        quick=quick,
    )


def backward(name: str, features: Tensor, rois: Tensor) -> Case:
    """Forward and backward through autograd, of the regions inside: at the border the peer's gradient differs."""
    rois = rois[inside(rois, features.shape[-1])]
    leaf = features.detach().clone().requires_grad_()
    grad = torch.randn(len(rois), features.shape[1], SIZE, SIZE, generator=workloads.generator(1)).to(features)

    def step(pool: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(pool(leaf, rois), leaf, grad)[0]

    return Case(
        "roi_align_rotated",
        name,
        run={
            "detops": step(lambda f, r: detops.ops.roi_align_rotated(f, r, SIZE, sampling_ratio=RATIO)),
            "pytorch": step(plain),
        },
        bytes=2 * features.nbytes + 2 * grad.nbytes + rois.nbytes,
        check=agree_to_scale,
    )


def plain(features: Tensor, rois: Tensor) -> Tensor:
    """All samples of all regions by one ``grid_sample``, then means over bins; of one image.

    In float32 at least: ``grid_sample`` takes coordinates in the dtype of the map.
    """
    dtype, features = features.dtype, features.to(torch.promote_types(features.dtype, torch.float32))
    steps = (torch.arange(SIZE * RATIO, device=features.device) + 0.5) / (SIZE * RATIO) - 0.5
    along, down = steps * rois[:, 3, None], steps * rois[:, 4, None]  # (K, 14)
    cos, sin = rois[:, 5].cos()[:, None, None], rois[:, 5].sin()[:, None, None]
    x = rois[:, 1, None, None] + along[:, None, :] * cos + down[:, :, None] * sin
    y = rois[:, 2, None, None] - along[:, None, :] * sin + down[:, :, None] * cos
    height, width = features.shape[2:]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).to(features.dtype)
    samples = functional.grid_sample(features, grid.flatten(0, 1)[None], align_corners=False, padding_mode="border")
    pooled = functional.avg_pool2d(samples.view(features.shape[1], len(rois), SIZE * RATIO, SIZE * RATIO), RATIO)
    return pooled.transpose(0, 1).to(dtype)


def inside(rois: Tensor, side: int) -> Tensor:
    """Which regions lie wholly on the map."""
    reach = torch.hypot(rois[:, 3], rois[:, 4]) / 2 + 1
    return (rois[:, 1:3] > reach[:, None]).all(dim=1) & (rois[:, 1:3] < side - reach[:, None]).all(dim=1)


def agree_inside(rois: Tensor, side: int) -> Callable[[Tensor, Tensor], None]:
    """A check of the regions that lie wholly on the map."""
    chosen = inside(rois, side)

    def check(actual: Tensor, expected: Tensor) -> None:
        tolerance = 1e-3 if actual.itemsize >= 4 else 0.02
        torch.testing.assert_close(actual[chosen], expected[chosen], rtol=tolerance, atol=tolerance)

    return check
