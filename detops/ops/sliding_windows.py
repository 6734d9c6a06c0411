"""Boxes of every size and shape at every place."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sliding_windows(
    image_size: tuple[int, int],
    sizes: Sequence[float],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    stride: float | Sequence[float] = 16,
    border: str = "drop",
) -> NDArray[np.float32]:
    """Every size and aspect ratio at regular steps over an image.

    A window of size s and ratio r is s / sqrt(r) wide and s · sqrt(r) high: r is height over width, s² the area.
    Windows begin at whole multiples of the stride, the first in the image's corner.

    Args:
        image_size: Height and width in pixels.
        sizes: Square roots of the areas in pixels.
        ratios: Heights over widths.
        stride: Step from one window to the next, both down and to the right, in pixels; or one for each of ``sizes``.
        border: What becomes of windows that reach beyond the image: "drop" leaves them out, "clip" cuts them off at its
            edge, "keep" leaves them as they are.

    Returns:
        Boxes, (N, 4) float32, x1, y1, x2, y2 in pixels: by size, then ratio, then row, then column. Equal ones, such as
        clipped ones of two sizes, are all there.

    Raises:
        ValueError: If the image size is negative, a size, ratio or stride not positive and finite, the strides are not
            as many as the sizes, or ``border`` is none of the three.
    """
    height, width = image_size
    if height < 0 or width < 0:
        raise ValueError(f"sliding_windows: expected image_size of at least 0, got {tuple(image_size)}")
    strides = list(stride) if isinstance(stride, Sequence) else [stride] * len(sizes)
    if len(strides) != len(sizes):
        raise ValueError(f"sliding_windows: expected stride as one number or {len(sizes)}, got {len(strides)}")
    for name, values in (("sizes", sizes), ("ratios", ratios), ("stride", strides)):
        if not all(0 < value < math.inf for value in values):
            raise ValueError(f"sliding_windows: expected {name} positive and finite, got {values}")
    if border not in ("drop", "clip", "keep"):
        raise ValueError(f"sliding_windows: expected border 'drop', 'clip' or 'keep', got {border!r}")
    windows = [
        _grid((height, width), (size * math.sqrt(ratio), size / math.sqrt(ratio)), step, border == "drop")
        for size, step in zip(sizes, strides, strict=True)
        for ratio in ratios
    ]
    boxes = np.concatenate([*windows, np.empty((0, 4), np.float32)])
    return boxes.clip(0, np.array([width, height] * 2, np.float32)) if border == "clip" else boxes


def _grid(
    image_size: tuple[int, int], window_size: tuple[float, float], step: float, inside: bool
) -> NDArray[np.float32]:
    """Windows of one size (height, width), row by row; all that begin in the image, or those inside it."""
    (y1, y2), (x1, x2) = (
        _intervals(extent, length, step, inside) for extent, length in zip(image_size, window_size, strict=True)
    )
    boxes = np.empty((len(y1), len(x1), 4), np.float32)
    boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3] = x1, y1[:, None], x2, y2[:, None]
    return boxes.reshape(-1, 4)


def _intervals(extent: int, length: float, step: float, inside: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    begins = np.arange(math.ceil(extent / step)) * step
    begins = begins[begins + length <= extent] if inside else begins
    return begins, begins + length
