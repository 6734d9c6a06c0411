"""Bilinear samples one by one, and regions made of them: slow references, differentiable in everything."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sample(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Of one channel (H, W) at a point in pixels; up to a pixel outside from the edge, further out zero."""
    H, W = plane.shape
    if not (-1 <= y <= H and -1 <= x <= W):
        return plane.new_zeros(())
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    y0, x0 = min(int(y), H - 1), min(int(x), W - 1)
    y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
    v, u = y - y0, x - x0
    upper = plane[y0, x0] * (1 - u) + plane[y0, x1] * u
    lower = plane[y1, x0] * (1 - u) + plane[y1, x1] * u
    return upper * (1 - v) + lower * v


def bin_samples(
    maps: Tensor,
    roi: Tensor,
    bins: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
    offset: Tensor | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """All samples of each bin of one region (image, x1, y1, x2, y2), (C, PH, PW, samples)."""
    image = maps[int(roi[0])]
    x1, y1, x2, y2 = (roi[1:] * scale - (0.5 if aligned else 0.0)).unbind()
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = width.clamp(min=1), height.clamp(min=1)
    bin_h, bin_w = height / bins[0], width / bins[1]
    down, across = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
    cells = []
    for ph in range(bins[0]):
        for pw in range(bins[1]):
            dx, dy = (0.0, 0.0) if offset is None else gamma * torch.stack([width, height]) * offset[:, ph, pw]
            cells += [
                sample(plane, y1 + dy + (ph + (iy + 0.5) / down) * bin_h, x1 + dx + (pw + (ix + 0.5) / across) * bin_w)
                for plane in image
                for iy in range(down)
                for ix in range(across)
            ]
    return torch.stack(cells).view(*bins, len(image), -1).permute(2, 0, 1, 3)


def rois_over(height: int, width: int) -> Tensor:
    """Regions inside the two images, across their edges, outside, and thin."""
    rows = [
        [0, 1.3, 2.1, 9.6, 8.2],
        [1, 0.0, 0.0, 2.0 * width - 1, 2.0 * height - 1],
        [1, -4.0, -3.0, 5.5, 6.25],
        [0, 40.0, 40.0, 50.0, 50.0],
        [1, 3.0, 3.0, 3.4, 9.0],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves), leaves, grad)
