"""Regions of a feature map, each divided into bins over which the interpolated map is integrated."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks, _rois

_PRROI_POOL = torch.ops.detops.prroi_pool.default


def prroi_pool(input: Tensor, rois: Tensor, output_size: int | Sequence[int], spatial_scale: float = 1.0) -> Tensor:
    r"""Divide regions of a feature map into bins and take the mean of the interpolated map over each.

    Precise RoI pooling of "Acquisition of Localization Confidence for Accurate Object Detection"
    (https://arxiv.org/abs/1807.11590), section 3.4:

    .. math:: \frac{1}{(x_2 - x_1) (y_2 - y_1)} \int_{y_1}^{y_2} \int_{x_1}^{x_2} f(x, y) \, dx \, dy,

    exactly, f the map interpolated bilinearly. Pixel (i, j) lies at x = j, y = i; the map is zero from a pixel outside
    on. No sample is placed and no coordinate rounded, so that the result is differentiable in the regions too.

    Args:
        input: Feature maps, (N, C, H, W), any floating dtype, any strides.
        rois: Regions in image pixels, (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch. Their dtype
            may differ from that of ``input``; geometry is float64.
        output_size: Bins per region, (PH, PW), or one number for both.
        spatial_scale: Feature pixels per image pixel, 1/16 for a map of stride 16.

    Returns:
        (K, C, PH, PW), dtype of ``input``, channels_last if ``input`` is. Sums in float32 or better. A region without
        area, a reversed one, and one with an edge or a size that is NaN or infinite is zero, as is its gradient.
        Differentiable once, in ``input`` and in the coordinates (where an edge lies on a pixel: the derivative towards
        the inside). Gradients are the same from run to run and for any number of threads. On a GPU, where values cannot
        be checked, a region of an impossible image is zero and passes no gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or, on the CPU, an image index not in 0...N-1.
    """
    pooled_height, pooled_width = _rois.pair("prroi_pool", output_size)
    return _PRROI_POOL(input, rois, spatial_scale, pooled_height, pooled_width)


class PrRoIPool(_rois.Pool):
    """:func:`prroi_pool` as a module."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return prroi_pool(input, rois, self.output_size, self.spatial_scale)


@torch.library.register_fake("detops::prroi_pool_backward_rois")
def _(grad: Tensor, input: Tensor, rois: Tensor, *grid: Any) -> Tensor:
    _rois.check_pooled("prroi_pool_backward_rois", grad, input, rois, *grid)
    return rois.new_empty(rois.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, *ctx.grid = inputs
    ctx.save_for_backward(rois, maps if ctx.needs_input_grad[1] else None)
    ctx.sizes = maps.shape
    ctx.channels_last = _rois.is_channels_last(maps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rois, maps = ctx.saved_tensors
    grad_input = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_input = torch.ops.detops.prroi_pool_backward(grad, rois, *ctx.grid, *ctx.sizes, ctx.channels_last)
    if ctx.needs_input_grad[1]:
        grad_rois = torch.ops.detops.prroi_pool_backward_rois(grad, maps, rois, *ctx.grid)
    return (grad_input, grad_rois, None, None, None)


_rois.register_fake_pool("prroi_pool")
_rois.register_fake_gradient("prroi_pool")
torch.library.register_autograd("detops::prroi_pool", _backward, setup_context=_setup_context)
_checks.refuse_second_derivative("prroi_pool", "prroi_pool_backward", "prroi_pool_backward_rois")
