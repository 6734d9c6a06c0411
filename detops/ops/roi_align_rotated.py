"""Rotated regions of a feature map, cropped, turned upright and resized by averaging bilinear samples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _rois

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


_rois.register_linear("roi_align_rotated", columns=6)
