"""Regions of a feature map, cropped and resized by averaging bilinear samples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _rois


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


class RoIAlign(_rois.Pool):
    """:func:`roi_align` as a module."""

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int, aligned: bool = False
    ) -> None:
        super().__init__(output_size, spatial_scale)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


_rois.register_linear("roi_align")
