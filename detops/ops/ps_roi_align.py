"""Position-sensitive regions of a feature map, each bin averaging bilinear samples of a channel of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _rois


def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """Pool regions of a feature map whose channels each belong to one bin, by averaging bilinear samples.

    Position-sensitive RoIAlign of "Light-Head R-CNN" (https://arxiv.org/abs/1711.07264), after "R-FCN"
    (https://arxiv.org/abs/1605.06409): bin (i, j) of output channel c reads input channel (c * PH + i) * PW + j alone.
    Geometry and border are those of :func:`detops.ops.roi_align` with ``aligned=True``.

    Args:
        input: Feature maps, (N, C * PH * PW, H, W), any floating dtype, any strides.
        boxes: Regions in image pixels: (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch; or a list
            with the boxes (L_i, 4) of each image. Their dtype may differ from that of ``input``. No gradient flows to
            them.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.
        sampling_ratio: Samples per bin along each axis; 0 or less takes one per pixel of the bin, rounded up.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. A bin without samples on the map is 0. Sums
        in float32 or better. Twice differentiable in ``input``; the gradient is the same from run to run and for any
        number of threads.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("ps_roi_align", output_size)
    rois = _rois.to_rois("ps_roi_align", boxes)
    return torch.ops.detops.ps_roi_align.default(
        input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio
    )


class PSRoIAlign(_rois.Pool):
    """:func:`ps_roi_align` as a module."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__(output_size, spatial_scale)
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


_rois.register_position_sensitive("ps_roi_align")
