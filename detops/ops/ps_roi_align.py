"""Position-sensitive regions of a feature map, each bin averaging bilinear samples of a channel of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


class PSRoIAlign(nn.Module):
    """:func:`ps_roi_align` as a module."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, sampling_ratio={self.sampling_ratio}"
        )


@torch.library.register_fake("detops::ps_roi_align")
def _(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int
) -> Tensor:
    return _rois.fake_position_sensitive("ps_roi_align", input, rois, pooled_height, pooled_width)


@torch.library.register_fake("detops::ps_roi_align_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    sampling_ratio: int,
    batch: int,
    channels: int,
    height: int,
    width: int,
    channels_last: bool,
) -> Tensor:
    sizes = (batch, channels, height, width)
    return _rois.fake_position_sensitive_backward("ps_roi_align_backward", grad, rois, sizes, channels_last)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, ctx.spatial_scale, _, _, ctx.sampling_ratio = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = maps.shape
    ctx.channels_last = _rois.is_channels_last(maps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    grad_input = torch.ops.detops.ps_roi_align_backward(
        grad, rois, ctx.spatial_scale, ctx.sampling_ratio, *ctx.sizes, ctx.channels_last
    )
    return (grad_input, None, None, None, None, None)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, ctx.spatial_scale, ctx.sampling_ratio, *_ = inputs
    ctx.save_for_backward(rois)
    ctx.pooled = grad.shape[2:]


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient is linear in what it is given; its transpose is the forward operator."""
    (rois,) = ctx.saved_tensors
    pooled = torch.ops.detops.ps_roi_align(grad, rois, ctx.spatial_scale, *ctx.pooled, ctx.sampling_ratio)
    return (pooled, *(None for _ in range(8)))


torch.library.register_autograd("detops::ps_roi_align", _backward, setup_context=_setup_forward)
torch.library.register_autograd("detops::ps_roi_align_backward", _double_backward, setup_context=_setup_backward)
