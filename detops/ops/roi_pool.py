"""Regions of a feature map, each divided into bins of which the largest value is taken."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks, _rois


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Divide regions of a feature map into bins and take the largest value of each.

    RoI pooling of "Fast R-CNN" (https://arxiv.org/abs/1504.08083), section 2.1. A region's edges are rounded to whole
    pixels, halves away from zero, both included; neighbouring bins may share a pixel. NaN in ``input`` is passed over,
    NaN in ``boxes`` counts as 0.

    Args:
        input: Feature maps, (N, C, H, W), any floating dtype, any strides.
        boxes: Regions in image pixels: (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch; or a list
            with the boxes (L_i, 4) of each image. Their dtype may differ from that of ``input``. No gradient flows to
            them.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. A bin without pixels on the map is 0, one of
        nothing but NaN or -inf the lowest finite float. Differentiable once in ``input``, which is kept for it: the
        first of equal pixels takes the gradient. It is the same from run to run and for any number of threads. On a
        GPU, where values cannot be checked, a region of an impossible image is zero and passes no gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("roi_pool", output_size)
    rois = _rois.to_rois("roi_pool", boxes)
    return torch.ops.detops.roi_pool.default(input, rois, spatial_scale, pooled_height, pooled_width)


class RoIPool(_rois.Pool):
    """:func:`roi_pool` as a module."""

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_pool(input, rois, self.output_size, self.spatial_scale)


@torch.library.register_fake("detops::roi_pool_backward")
def _(grad: Tensor, input: Tensor, *grid: Any) -> Tensor:
    _rois.check_pooled("roi_pool_backward", grad, input, *grid)
    return _rois.new_maps(input, input.shape, _rois.is_channels_last(input))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, *ctx.grid = inputs
    ctx.save_for_backward(maps, rois)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (torch.ops.detops.roi_pool_backward(grad, *ctx.saved_tensors, *ctx.grid), None, None, None, None)


_rois.register_fake_pool("roi_pool")
torch.library.register_autograd("detops::roi_pool", _backward, setup_context=_setup_context)
_checks.refuse_second_derivative("roi_pool_backward", "roi_pool_backward")
