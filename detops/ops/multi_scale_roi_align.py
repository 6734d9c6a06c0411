"""Regions of a feature pyramid, each cropped and resized from the map of its level."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks, _rois

_MOST_LEVELS = 8


def multi_scale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int = 2,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    aligned: bool = False,
) -> Tensor:
    """Crop and resize regions of a feature pyramid: :func:`roi_align` of each on the map of its level, in one pass.

    A region belongs to level ``floor(canonical_level + log2(sqrt(area) / canonical_scale) + 1e-6)``, equation 1 of
    "Feature Pyramid Networks for Object Detection" (https://arxiv.org/abs/1612.03144); a map of scale ``s`` is that of
    level ``-log2(s)``, rounded. Where the pyramid has no map of a region's level, the next coarser one is taken, or
    else the coarsest; where it has several, the first of them.

    As in torchvision, areas and levels are computed in float32 (float64 for float64 regions), on every device alike. At
    a tie, and down to about 1e-6 of a side below it, a region is of the coarser level. One of negative area, reversed
    along one axis, or whose area is NaN, is of no level: it is zero and passes no gradient, unless there is only one
    map, which takes all regions.

    Args:
        features: A map per level from the finest to the coarsest, 1 to 8 of them, each (N, C, H_l, W_l), of one
            floating dtype, any strides.
        rois: Regions in image pixels: (K, 5) as (image, x1, y1, x2, y2), the image an index in the batch; or a list
            with the boxes (L_i, 4) of each image. Their dtype may differ from that of the features. No gradient flows
            to them.
        output_size: Bins per region, (PH, PW), or one number for both.
        scales: Feature pixels per image pixel of each map, 1/4 for a map of stride 4; none above the one before.
        sampling_ratio: Samples per bin along each axis; 0 or less takes one per pixel of the bin, rounded up.
        canonical_scale: Side in pixels of a square region of level ``canonical_level``.
        canonical_level: That level.
        aligned: Whether pixel centres lie at half integers of the image: see :func:`roi_align`.

    Returns:
        (K, C, PH, PW), dtype of the features, channels_last if the finest map is. Otherwise as :func:`roi_align`.

    Raises:
        RuntimeError: If a shape, dtype, device, number of levels or scale is not as above, or, on the CPU, an image
            index not in 0...N-1.
    """
    op = "multi_scale_roi_align"
    if len(features) == 0:
        _checks.fail(op, "expected features of at least one level, got none")
    pooled_height, pooled_width = _rois.pair(op, output_size)
    return torch.ops.detops.multi_scale_roi_align.default(
        features,
        _rois.to_rois(op, rois, "rois"),
        scales,
        pooled_height,
        pooled_width,
        sampling_ratio,
        canonical_scale,
        canonical_level,
        aligned,
    )


class MultiScaleRoIAlign(nn.Module):
    """:func:`multi_scale_roi_align` of named feature maps, as torchvision's module of this name.

    Args:
        featmap_names: Names of the maps to pool from.
        output_size: Bins per region, (PH, PW), or one number for both.
        sampling_ratio: Samples per bin along each axis; 0 or less takes one per pixel of the bin, rounded up.
        canonical_scale: Side in pixels of a square region of level ``canonical_level``.
        canonical_level: That level.

    Attributes:
        scales: Feature pixels per image pixel of each map: powers of two, found in the first call and kept from then
            on. Setting it to None has the next call find them anew.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = featmap_names
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales: list[float] | None = None

    def forward(self, x: dict[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Pools from the maps whose name was given, in the order of ``x``: from the finest to the coarsest.

        Args:
            x: Feature maps by name, (N, C, H_l, W_l). Where autocast made their dtypes differ, all are taken in the
                widest, and the result is of the first one's.
            boxes: Of each image, (L_i, 4), corners in image pixels.
            image_shapes: Height and width of each image that ``x`` was computed from, before padding.

        Returns:
            (sum of L_i, C, PH, PW).

        Raises:
            ValueError: If ``image_shapes`` is empty in the first call.
            RuntimeError: If ``x`` has none of the maps, or as :func:`multi_scale_roi_align`.
        """
        features = [feature for name, feature in x.items() if name in self.featmap_names]
        if not features:
            _checks.fail("MultiScaleRoIAlign", f"expected x with maps named {self.featmap_names}, got {list(x)}")
        if self.scales is None:
            self.scales = _infer_scales(features, image_shapes)
        dtype = features[0].dtype
        if any(feature.dtype != dtype for feature in features):
            widest = functools.reduce(torch.promote_types, (feature.dtype for feature in features))
            features = [feature.to(widest) for feature in features]
        pooled = multi_scale_roi_align(
            features,
            boxes,
            self.output_size,
            self.scales,
            self.sampling_ratio,
            self.canonical_scale,
            self.canonical_level,
        )
        return pooled if pooled.dtype == dtype else pooled.to(dtype)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(featmap_names={self.featmap_names}, "
            f"output_size={self.output_size}, sampling_ratio={self.sampling_ratio})"
        )


def _infer_scales(features: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[float]:
    """The powers of two nearest to the maps' heights over that of the highest image."""
    if not image_shapes:
        raise ValueError("MultiScaleRoIAlign: expected image_shapes of at least one image, got none")
    height = max(shape[0] for shape in image_shapes)
    return [2.0 ** round(math.log2(feature.shape[-2] / height)) for feature in features]


def _check_levels(op: str, name: str, levels: int, scales: Sequence[float], canonical_scale: float) -> None:
    if levels < 1:
        _checks.fail(op, f"expected {name} of at least one level, got none")
    if levels > _MOST_LEVELS:
        _checks.fail(op, f"expected {name} of at most {_MOST_LEVELS} levels, got {levels}")
    if len(scales) != levels:
        _checks.fail(op, f"expected scales of {levels} levels, got {len(scales)}")
    for i, scale in enumerate(scales):
        if not 0 < scale < math.inf:
            _checks.fail(op, f"expected scales[{i}] above 0 and finite, got {scale:g}")
        if i > 0 and scale > scales[i - 1]:
            _checks.fail(
                op, f"expected scales from the finest level to the coarsest, got {scale:g} after {scales[i - 1]:g}"
            )
    if not 0 < canonical_scale < math.inf:
        _checks.fail(op, f"expected canonical_scale above 0 and finite, got {canonical_scale:g}")


@torch.library.register_fake("detops::multi_scale_roi_align")
def _(
    features: list[Tensor],
    rois: Tensor,
    scales: list[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    canonical_scale: float,
    canonical_level: int,
    aligned: bool,
) -> Tensor:
    op = "multi_scale_roi_align"
    _check_levels(op, "features", len(features), scales, canonical_scale)
    first = features[0]
    for i, level in enumerate(features):
        name = f"features[{i}]"
        _checks.check_floating(op, name, level)
        _checks.check_shape(op, name, level, (*first.shape[:2], None, None) if i else (None, None, None, None))
        _checks.check_same_dtype(op, "features[0]", first, name, level)
        _checks.check_same_device(op, "features[0]", first, name, level)
    _rois.check(op, "features[0]", first, rois, pooled_height, pooled_width)
    sizes = (rois.shape[0], first.shape[1], pooled_height, pooled_width)
    return _rois.new_maps(first, sizes, _rois.is_channels_last(first))


@torch.library.register_fake("detops::multi_scale_roi_align_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    scales: list[float],
    pooled_height: int,
    pooled_width: int,
    batch: int,
    channels: int,
    sizes: list[int],
    sampling_ratio: int,
    canonical_scale: float,
    canonical_level: int,
    aligned: bool,
    channels_last: list[bool],
) -> list[Tensor]:
    op = "multi_scale_roi_align_backward"
    _check_levels(op, "sizes", len(sizes) // 2, scales, canonical_scale)
    if len(channels_last) != len(scales):
        _checks.fail(op, f"expected channels_last of {len(scales)} levels, got {len(channels_last)}")
    _rois.check(op, "grad", grad, rois, pooled_height, pooled_width)
    _checks.check_shape(op, "grad", grad, (rois.shape[0], channels, pooled_height, pooled_width))
    levels = zip(sizes[::2], sizes[1::2], channels_last, strict=True)
    return [_rois.new_maps(grad, (batch, channels, height, width), last) for height, width, last in levels]


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, *ctx.grid = inputs
    ctx.save_for_backward(rois)
    ctx.batch_and_channels = features[0].shape[:2]
    ctx.sizes = [side for level in features for side in level.shape[2:]]
    ctx.channels_last = [_rois.is_channels_last(level) for level in features]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    *scales_and_size, sampling_ratio, canonical_scale, canonical_level, aligned = ctx.grid
    grads = torch.ops.detops.multi_scale_roi_align_backward(
        grad,
        rois,
        *scales_and_size,
        *ctx.batch_and_channels,
        ctx.sizes,
        sampling_ratio,
        canonical_scale,
        canonical_level,
        aligned,
        ctx.channels_last,
    )
    return (grads, *(None for _ in range(8)))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, rois, *scales_and_size, _, _, _, sampling_ratio, canonical_scale, canonical_level, aligned, _ = inputs
    ctx.save_for_backward(rois)
    ctx.grid = (*scales_and_size, sampling_ratio, canonical_scale, canonical_level, aligned)


def _double_backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient is linear in what it is given; its transpose is the forward operator."""
    (rois,) = ctx.saved_tensors
    return (torch.ops.detops.multi_scale_roi_align(grads, rois, *ctx.grid), *(None for _ in range(12)))


torch.library.register_autograd("detops::multi_scale_roi_align", _backward, setup_context=_setup_forward)
torch.library.register_autograd(
    "detops::multi_scale_roi_align_backward", _double_backward, setup_context=_setup_backward
)
