"""Position-sensitive regions of a feature map, each bin averaging pixels of a channel of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _rois


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool regions of a feature map whose channels each belong to one bin, by averaging pixels.

    Position-sensitive RoI pooling of "R-FCN" (https://arxiv.org/abs/1605.06409), section 2: bin (i, j) of output
    channel c is the mean of input channel (c * PH + i) * PW + j over its pixels. A region's edges are rounded to whole
    pixels, halves away from zero, the end not included; neighbouring bins may share a pixel. As in torchvision, the
    last row and the last column of a map are in no bin. NaN in ``boxes`` counts as 0.

    Args:
        input: Feature maps, (N, C * PH * PW, H, W), any floating dtype, any strides.
        boxes: Regions in image pixels: (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch; or a list
            with the boxes (L_i, 4) of each image. Their dtype may differ from that of ``input``. No gradient flows to
            them.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. A bin without pixels is 0. Sums in float32 or
        better. Twice differentiable in ``input``; the gradient is the same from run to run and for any number of
        threads.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("ps_roi_pool", output_size)
    rois = _rois.to_rois("ps_roi_pool", boxes)
    return torch.ops.detops.ps_roi_pool.default(input, rois, spatial_scale, pooled_height, pooled_width)


class PSRoIPool(_rois.Pool):
    """:func:`ps_roi_pool` as a module."""

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)


_rois.register_position_sensitive("ps_roi_pool")
