"""Regions of feature maps, by detops's kernels: RoIAlign, straight and rotated, and precise RoI pooling."""

import torch
from torch import Tensor

from ._gradients import pull_back
from ._sampling import Grid, bilinear

_MAX = 0  # pool_mode
_NOWHERE = -2  # off every map, where samples are zero and pass no gradient


@torch.no_grad()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Means of samples (``pool_mode`` 1), or (0) the largest of them, and where it lies, in pixels."""
    if pool_mode == _MAX:
        grid = Grid(rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
        for given, result in zip((output, argmax_y, argmax_x), _largest_samples(input, grid), strict=True):
            given.copy_(result)
        return
    arguments = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.detops.roi_align.default(input, rois, *arguments))


@torch.no_grad()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode == _MAX:
        (of_input,) = pull_back(lambda maps: bilinear(maps, rois[:, 0], argmax_y, argmax_x), [grad_input], grad_output)
        grad_input.add_(of_input)
        return
    arguments = (spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned, False)
    grad_input.add_(torch.ops.detops.roi_align_backward.default(grad_output, rois, *arguments))


@torch.no_grad()
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Of ``rois`` (K, 6) as (image, cx, cy, w, h, radians)."""
    arguments = (spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise)
    output.copy_(torch.ops.detops.roi_align_rotated.default(input, rois, *arguments))


@torch.no_grad()
def roi_align_rotated_backward(
    top_grad: Tensor,
    rois: Tensor,
    bottom_grad: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    sizes = (spatial_scale, pooled_height, pooled_width, *bottom_grad.shape)
    backward = torch.ops.detops.roi_align_rotated_backward.default
    bottom_grad.add_(backward(top_grad, rois, *sizes, sampling_ratio, aligned, clockwise, False))


@torch.no_grad()
def prroi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    output.copy_(torch.ops.detops.prroi_pool.default(input, rois, spatial_scale, pooled_height, pooled_width))


@torch.no_grad()
def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    arguments = (spatial_scale, pooled_height, pooled_width, *grad_input.shape, False)
    grad_input.add_(torch.ops.detops.prroi_pool_backward.default(grad_output, rois, *arguments))


@torch.no_grad()
def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """The gradient in the coordinates of ``rois``."""
    arguments = (spatial_scale, pooled_height, pooled_width)
    grad_rois.add_(torch.ops.detops.prroi_pool_backward_rois.default(grad_output, input, rois, *arguments))


def _largest_samples(input: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The largest sample of each bin and its y and x, (K, C, PH, PW) each; zero and nowhere in bins without one."""
    best = input.new_full((len(grid.rois), input.shape[1], grid.height, grid.width), -torch.inf)
    at_y, at_x = torch.full_like(best, _NOWHERE), torch.full_like(best, _NOWHERE)
    for y, x, present in grid.samples():
        value = bilinear(input, grid.images, y, x).to(best.dtype)
        better = present & (value > best)
        best = torch.where(better, value, best)
        at_y, at_x = torch.where(better, y.to(best.dtype), at_y), torch.where(better, x.to(best.dtype), at_x)
    return torch.where(at_y == _NOWHERE, 0.0, best), at_y, at_x
