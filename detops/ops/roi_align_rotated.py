"""Rotated regions of a feature map, cropped, turned upright and resized by averaging bilinear samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks, _rois

_ROI_ALIGN_ROTATED = torch.ops.detops.roi_align_rotated.default


def roi_align_rotated(
    input: Tensor,
    rois: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """Crop rotated regions of a feature map, upright and resized, by averaging bilinear samples.

    :func:`detops.ops.roi_align` with the bins along the sides of a rotated box, as the rotated proposals of
    https://arxiv.org/abs/1703.01086 need it. Samples up to a pixel outside the map take the nearest pixel; those
    further out, or at NaN or infinite coordinates, count as zero.

    Args:
        input: Feature maps, (N, C, H, W), any floating dtype, any strides.
        rois: Regions, (K, 6) as (image, cx, cy, w, h, angle): index in the batch, image pixels and radians. Their dtype
            may differ from that of ``input``. No gradient flows to them.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.
        sampling_ratio: Samples per bin along each axis; 0 or less takes one per pixel of the bin, rounded up. A bin of
            more than 2^24 pixels then has none, and is zero.
        aligned: Whether pixel centres lie at half integers of the image, which is exact. If not, coordinates are off by
            half a pixel and regions are at least a pixel wide and high.
        clockwise: Whether angles grow from the x axis towards the y axis: clockwise in an image, whose y points down.
            An angle beyond 2^29 is none: the region is zero.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. Sums in float32 or better. Twice
        differentiable in ``input``; the gradient is the same from run to run and for any number of threads.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("roi_align_rotated", output_size)
    return _ROI_ALIGN_ROTATED(
        input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise
    )


def _check(op: str, name: str, maps: Tensor, rois: Tensor, pooled_height: int, pooled_width: int) -> None:
    _checks.check_floating(op, name, maps)
    if name == "input":
        _checks.check_shape(op, "input", maps, (None, None, None, None))
    _checks.check_floating(op, "rois", rois)
    _checks.check_shape(op, "rois", rois, (None, 6))
    _checks.check_same_device(op, name, maps, "rois", rois)
    if pooled_height <= 0:
        _checks.fail(op, f"expected pooled_height of at least 1, got {pooled_height}")
    if pooled_width <= 0:
        _checks.fail(op, f"expected pooled_width of at least 1, got {pooled_width}")


@torch.library.register_fake("detops::roi_align_rotated")
def _(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    _check("roi_align_rotated", "input", input, rois, pooled_height, pooled_width)
    sizes = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return _rois.new_maps(input, sizes, _rois.is_channels_last(input))


@torch.library.register_fake("detops::roi_align_rotated_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
    channels_last: bool,
) -> Tensor:
    op = "roi_align_rotated_backward"
    _check(op, "grad", grad, rois, pooled_height, pooled_width)
    _checks.check_shape(op, "grad", grad, (rois.shape[0], channels, pooled_height, pooled_width))
    return _rois.new_maps(grad, (batch, channels, height, width), channels_last)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, *ctx.grid = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = maps.shape
    ctx.channels_last = _rois.is_channels_last(maps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    scale_and_size, sampling = ctx.grid[:3], ctx.grid[3:]
    grad_input = torch.ops.detops.roi_align_rotated_backward(
        grad, rois, *scale_and_size, *ctx.sizes, *sampling, ctx.channels_last
    )
    return (grad_input, *(None for _ in range(7)))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rois, spatial_scale, pooled_height, pooled_width, *_, sampling_ratio, aligned, clockwise, _ = inputs
    ctx.save_for_backward(rois)
    ctx.grid = (spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient is linear in what it is given; its transpose is the forward operator."""
    (rois,) = ctx.saved_tensors
    return (torch.ops.detops.roi_align_rotated(grad, rois, *ctx.grid), *(None for _ in range(12)))


torch.library.register_autograd("detops::roi_align_rotated", _backward, setup_context=_setup_forward)
torch.library.register_autograd("detops::roi_align_rotated_backward", _double_backward, setup_context=_setup_backward)
