"""RoI pooling as mmcv defines it, and deformable RoI pooling, in plain PyTorch."""

import torch
from torch import Tensor

from ._gradients import pull_back
from ._sampling import Grid, bilinear


@torch.no_grad()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Largest value of each bin and, in ``argmax``, its place y * W + x; 0 and -1 in bins without pixels.

    Unlike torchvision's, regions are not rounded to whole pixels, only their bins are, outwards; and a region ends a
    pixel of the image after x2 and y2.
    """
    height, width = input.shape[2:]
    top, bottom = _bins(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, height)
    left, right = _bins(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    image, channel = rois[:, 0].long()[:, None, None, None], torch.arange(input.shape[1], device=input.device)

    best = torch.full_like(output, -torch.inf)
    at = torch.full_like(argmax, -1)
    tallest, widest = (int((high - low).max()) if len(rois) else 0 for low, high in ((top, bottom), (left, right)))
    for dy in range(tallest):
        for dx in range(widest):
            y, x = (top + dy)[:, None, :, None], (left + dx)[:, None, None, :]
            present = (y < bottom[:, None, :, None]) & (x < right[:, None, None, :])
            y, x = y.clamp(max=height - 1), x.clamp(max=width - 1)
            value = input[image, channel[:, None, None], y, x]
            better = present & (value > best)
            best = torch.where(better, value, best)
            at = torch.where(better, (y * width + x).to(at.dtype), at)
    output.copy_(torch.where(at < 0, 0.0, best))
    argmax.copy_(at)


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    _, channels, height, width = grad_input.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)  # (K, C)
    place = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    passed = torch.where(argmax < 0, 0.0, grad_output)
    of_input = torch.zeros_like(grad_input, memory_format=torch.contiguous_format)
    grad_input.add_(of_input.view(-1).index_add_(0, place.flatten(), passed.flatten()).view_as(of_input))


@torch.no_grad()
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """RoIAlign with bins that are moved: "Deformable Convolutional Networks", section 2.2.

    ``offset`` (K, 2, PH, PW), or empty, is by how much, as (x, y) in the region's size over ``gamma``.
    """
    size = (pooled_height, pooled_width)
    output.copy_(_deform_roi_pool(input, offset, rois, size, spatial_scale, sampling_ratio, gamma))


@torch.no_grad()
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    size = (pooled_height, pooled_width)

    def forward(maps: Tensor, shift: Tensor = offset) -> Tensor:
        return _deform_roi_pool(maps, shift, rois, size, spatial_scale, sampling_ratio, gamma)

    gradients = pull_back(forward, [input, offset] if offset.numel() > 0 else [input], grad_output)
    for given, gradient in zip((grad_input, grad_offset), gradients, strict=False):
        given.add_(gradient)


def _bins(start: Tensor, end: Tensor, scale: float, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First pixel of each bin along one axis, and the one after its last, (K, bins) each; the same if there is none."""
    start, end = start * scale, (end + 1) * scale
    step = ((end - start) / bins)[:, None]
    edges = torch.arange(bins + 1, device=start.device) * step + start[:, None]
    low, high = (edge.nan_to_num().clamp(0, size).long() for edge in (edges[:, :-1].floor(), edges[:, 1:].ceil()))
    return low, torch.where(step > 0, torch.maximum(low, high), low)


def _deform_roi_pool(
    input: Tensor,
    offset: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    grid = Grid(rois, spatial_scale, *size, sampling_ratio, aligned=True)
    shift = gamma * grid.extents()[:, :, None, None] * offset if offset.numel() > 0 else None
    total = input.new_zeros(len(rois), input.shape[1], *size)
    for y, x, present in grid.samples(shift):
        total = total + torch.where(present, bilinear(input, grid.images, y, x), 0.0)
    counts = grid.counts().prod(1).clamp(min=1)[:, None, None, None]
    return (total / counts).to(input.dtype)
