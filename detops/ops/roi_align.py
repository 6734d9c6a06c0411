"""Regions of a feature map, cropped and resized by averaging bilinear samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks, _rois


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Crop and resize regions of a feature map by averaging bilinear samples.

    RoIAlign of "Mask R-CNN" (https://arxiv.org/abs/1703.06870), section 3. Samples up to a pixel outside the map take
    the nearest pixel; those further out, or at NaN or infinite coordinates, count as zero.

    Args:
        input: Feature maps, (N, C, H, W), any floating dtype, any strides.
        boxes: Regions in image pixels: (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch; or a list
            with the boxes (L_i, 4) of each image. Their dtype may differ from that of ``input``: float32 coordinates
            keep their precision beside half-precision features. No gradient flows to them.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.
        sampling_ratio: Samples per bin along each axis; 0 or less takes one per pixel of the bin, rounded up. A bin of
            more than 2^24 pixels then has none, and is zero.
        aligned: Whether pixel centres lie at half integers of the image, which is exact. If not, coordinates are off by
            half a pixel and regions are at least a pixel wide and high, as in the first implementations.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. Sums in float32 or better. Twice
        differentiable in ``input``; the gradient is the same from run to run and for any number of threads. On a GPU,
        where values cannot be checked, a region of an impossible image is zero and passes no gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("roi_align", output_size)
    rois = _rois.to_rois("roi_align", boxes)
    return torch.ops.detops.roi_align.default(
        input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned
    )


class RoIAlign(nn.Module):
    """:func:`roi_align` as a module."""

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int, aligned: bool = False
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("detops::roi_align")
def _(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    _rois.check("roi_align", "input", input, rois, pooled_height, pooled_width)
    sizes = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return _rois.new_maps(input, sizes, _rois.is_channels_last(input))


@torch.library.register_fake("detops::roi_align_backward")
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
    channels_last: bool,
) -> Tensor:
    op = "roi_align_backward"
    _rois.check(op, "grad", grad, rois, pooled_height, pooled_width)
    _checks.check_shape(op, "grad", grad, (rois.shape[0], channels, pooled_height, pooled_width))
    return _rois.new_maps(grad, (batch, channels, height, width), channels_last)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, *ctx.grid = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = maps.shape
    ctx.channels_last = _rois.is_channels_last(maps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    *scale_and_size, sampling_ratio, aligned = ctx.grid
    grad_input = torch.ops.detops.roi_align_backward(
        grad, rois, *scale_and_size, *ctx.sizes, sampling_ratio, aligned, ctx.channels_last
    )
    return (grad_input, None, None, None, None, None, None)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rois, spatial_scale, pooled_height, pooled_width, *_, sampling_ratio, aligned, _ = inputs
    ctx.save_for_backward(rois)
    ctx.grid = (spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient is linear in what it is given; its transpose is the forward operator."""
    (rois,) = ctx.saved_tensors
    return (torch.ops.detops.roi_align(grad, rois, *ctx.grid), *(None for _ in range(11)))


torch.library.register_autograd("detops::roi_align", _backward, setup_context=_setup_forward)
torch.library.register_autograd("detops::roi_align_backward", _double_backward, setup_context=_setup_backward)
