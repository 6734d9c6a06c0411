"""Pictures of handwritten digits among clutter, composed from seeds.

All arithmetic is on whole numbers (products of small ones in float32, which are exact), so that a scene has the same
bytes on every machine.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_OPAQUE = 256  # of an ink's opacity: 256 hides what is below
_INK = 128  # the opacity from which a pixel belongs to the digit
_HIDDEN = 0.25  # the part of a digit's box that others may share
_ONE = 1 << 16  # a source pixel, in the fixed-point coordinates of `_drawn`
_GRID = 5  # colours in each direction that a background blends


class Digit(NamedTuple):
    """A digit on its place."""

    opacity: Array  # (h, w) int32, 0 to 256
    top: int
    left: int
    label: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.opacity.shape[1], self.top + self.opacity.shape[0]


def layout(
    rng: np.random.Generator, sources: Array, labels: Array, size: int, heights: tuple[int, int], most: int
) -> list[Digit]:
    """One digit or more, each drawn in its own way and on a place where it hides little of the others.

    Args:
        rng: Where everything random comes from.
        sources: (n, 8, 8), 0 to 16.
        labels: (n,)
        size: Height and width of the scene.
        heights: Of the smallest and the largest digit.
        most: Digits.
    """
    digits: list[Digit] = []
    hidden: list[float] = []  # of each digit's box the part that later ones share, at most
    for _ in range(rng.integers(1, most + 1)):
        which = int(rng.integers(len(sources)))
        ratio = (heights[1] / heights[0]) ** (int(rng.integers(33)) / 32)
        opacity = _drawn(rng, sources[which], heights[0] * ratio)
        h, w = opacity.shape
        for top, left in rng.integers(0, (size - h + 1, size - w + 1), (12, 2)).tolist():
            digit = Digit(opacity, top, left, int(labels[which]))
            hidden_now = [part + _overlap(digit.box, other.box) for part, other in zip(hidden, digits, strict=True)]
            if all(part < _HIDDEN for part in hidden_now):
                digits, hidden = [*digits, digit], [*hidden_now, 0.0]
                break
    return digits


def owners(digits: list[Digit], size: int) -> Array:
    """Of each pixel the number of the digit whose ink shows there, from 1 on, or 0; (size, size) uint8."""
    owner = np.zeros((size, size), np.uint8)
    for number, digit in enumerate(digits, 1):
        x1, y1, x2, y2 = digit.box
        owner[y1:y2, x1:x2][digit.opacity >= _INK] = number
    return owner


def paint(rng: np.random.Generator, digits: list[Digit], size: int, clutter: int) -> Array:
    """The digits over a background and at most so many bars and blobs, (3, size, size) uint8."""
    image = _background(rng, size)
    for _ in range(rng.integers(clutter + 1)):
        shape = _bar(rng, size) if rng.integers(2) else _blob(rng, size)
        _cover(image, *shape, rng.integers(0, 256, 3))
    for digit in digits:
        x1, y1, x2, y2 = digit.box
        below = image[:, y1:y2, x1:x2].sum((1, 2), dtype=np.int64) // digit.opacity.size
        _cover(image, digit.opacity, digit.top, digit.left, _ink_on(rng, below))
    strength = int(rng.integers(0, 28))
    noise = np.frombuffer(rng.bytes(image.size), np.int8).reshape(image.shape).astype(np.int16)
    return np.clip(image + ((noise * strength) >> 7), 0, 255).astype(np.uint8)


def _drawn(rng: np.random.Generator, source: Array, height: float) -> Array:
    """A digit turned, slanted, of random width and weight, trimmed to its ink; opacity (h, w) int32."""
    degrees, slant, width, weight = (int(n) for n in rng.integers((-14, -20, 75, 104), (15, 21, 116, 165)))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    down, across = 8 / height, 8 / (height * width / 100)  # source pixels per pixel
    sheared = ((cos * across, sin * across), (-sin * down, cos * down))
    xx, xy = (round(_ONE * (a + slant / 100 * b)) for a, b in zip(*sheared, strict=True))
    yx, yy = (round(_ONE * b) for b in sheared[1])
    side = math.ceil(height * 1.6)
    steps = np.arange(side, dtype=np.int64) * 2 - (side - 1)  # twice the distance from the centre
    padded = np.pad(source.astype(np.int64) * 16, 2)  # (12, 12), 0 to 256
    x = _source_position(xx * steps[None] + xy * steps[:, None])
    y = _source_position(yx * steps[None] + yy * steps[:, None])
    (x0, fx), (y0, fy) = divmod(x, 256), divmod(y, 256)
    corner = padded.ravel()
    first = y0 * 12 + x0
    upper = corner[first] * (256 - fx) + corner[first + 1] * fx
    lower = corner[first + 12] * (256 - fx) + corner[first + 13] * fx
    value = (upper * (256 - fy) + lower * fy) >> 16
    sharpness = max(round(height / 8), 2)
    opacity = np.clip((value - weight) * sharpness + _INK, 0, _OPAQUE).astype(np.int32)
    rows, columns = ((opacity >= _INK).any(axis).nonzero()[0] for axis in (1, 0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _source_position(twice: Array) -> Array:
    """From twice the distance to the centre, in 1/65536 of a source pixel, to 1/256 from the padded corner."""
    return np.clip((twice >> 9) + round(5.5 * 256), 0, 11 * 256 - 1)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """What both boxes share, as a part of the smaller."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0) * max(height, 0) / smaller


def _background(rng: np.random.Generator, size: int) -> Array:
    """Colours that run into each other, (3, size, size) int16."""
    base, spread = rng.integers(0, 256, (3, 1, 1)), int(rng.integers(8, 90))
    colours = np.clip(base + rng.integers(-spread, spread + 1, (3, _GRID, _GRID)), 0, 255)
    grey = colours.sum(0, keepdims=True) // 3
    colours = (grey + ((colours - grey) * rng.integers(20, 257) >> 8)).astype(np.float32)
    weights = _interpolation(size)
    return ((weights @ colours @ weights.T) / 4096).astype(np.int16)


@cache
def _interpolation(size: int) -> Array:
    """Weights (size, _GRID) that blend a row of colours, in 64ths."""
    position = np.arange(size) * (64 * (_GRID - 1)) // size
    cell, rest = divmod(position, 64)
    weights = np.zeros((size, _GRID), np.float32)
    weights[np.arange(size), cell] = 64 - rest
    weights[np.arange(size), cell + 1] = rest
    return weights


def _bar(rng: np.random.Generator, size: int) -> tuple[Array, int, int]:
    """A straight stroke: opacity, top, left."""
    (x1, x2), (y1, y2) = rng.integers(0, size, (2, 2)).tolist()
    radius, opacity = int(rng.integers(1, max(size // 48, 2))), int(rng.integers(90, _OPAQUE + 1))
    left, top = max(min(x1, x2) - radius, 0), max(min(y1, y2) - radius, 0)
    x = np.arange(left, min(max(x1, x2) + radius + 1, size), dtype=np.int32)[None] - x1
    y = np.arange(top, min(max(y1, y2) + radius + 1, size), dtype=np.int32)[:, None] - y1
    dx, dy = x2 - x1, y2 - y1
    length = math.isqrt(dx * dx + dy * dy)
    inside = (abs(dx * y - dy * x) <= radius * length) & (
        abs(2 * (dx * x + dy * y) - length * length) <= length * length
    )
    return inside * np.int32(opacity), top, left


def _blob(rng: np.random.Generator, size: int) -> tuple[Array, int, int]:
    """An ellipse: opacity, top, left."""
    (cx, cy), (a, b) = rng.integers(0, size, 2).tolist(), rng.integers(2, size // 7, 2).tolist()
    opacity = int(rng.integers(40, 220))
    left, top = max(cx - a, 0), max(cy - b, 0)
    x = np.arange(left, min(cx + a + 1, size), dtype=np.int32)[None] - cx
    y = np.arange(top, min(cy + b + 1, size), dtype=np.int32)[:, None] - cy
    return ((x * b) ** 2 + (y * a) ** 2 <= (a * b) ** 2) * np.int32(opacity), top, left


def _ink_on(rng: np.random.Generator, below: Array) -> Array:
    """A colour that is brighter or darker than the mean one below."""
    contrast = int(rng.integers(45, 120))
    for colour in rng.integers(0, 256, (8, 3)):
        if abs(_brightness(colour) - _brightness(below)) >= contrast:
            return colour
    return np.full(3, 0 if _brightness(below) > 128 else 255)


def _brightness(colour: Array) -> int:
    red, green, blue = colour.tolist()
    return int(2 * red + 5 * green + blue) // 8


def _cover(image: Array, opacity: Array, top: int, left: int, colour: Array) -> None:
    region = image[:, top : top + opacity.shape[0], left : left + opacity.shape[1]]
    region += ((colour.astype(np.int32)[:, None, None] - region) * opacity) >> 8
