"""Boxes around everything that may be an object, from the image alone."""

import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _C

_COLOR_SPACES = ("rgb", "hsv", "lab", "rgi", "hue", "intensity")
_MAX_PIXELS = 1 << 28
_MAX_SIGMA = 100

# Colour spaces, scales, sets of similarities.
_MODES: dict[str, tuple[Sequence[str], Sequence[float], Sequence[str]]] = {
    "fast": (("hsv", "lab"), (50, 100), ("CTSF", "TSF")),
    "quality": (("hsv", "lab", "rgi", "hue", "intensity"), (50, 100, 150, 300), ("CTSF", "TSF", "F", "S")),
}

_Boxes = NDArray[np.int64] | Tensor
_Scores = NDArray[np.float64] | Tensor


def selective_search(
    image: NDArray[np.uint8] | Tensor,
    mode: str = "fast",
    *,
    color_spaces: Sequence[str] | None = None,
    scales: Sequence[float] | None = None,
    similarities: Sequence[str] | None = None,
    sigma: float = 0.8,
    min_size: int | None = None,
    max_boxes: int | None = None,
    seed: int = 0,
    return_scores: bool = False,
) -> _Boxes | tuple[_Boxes, _Scores]:
    """Propose boxes of objects by merging the regions of an image, the most similar neighbours first.

    "Selective Search for Object Recognition" (Uijlings et al., IJCV 2013). Graph-based segmentation (Felzenszwalb and
    Huttenlocher, IJCV 2004) gives the first regions. Each colour space with each scale is one segmentation, each of
    those is merged once per set of similarities, and every region on the way gives a box.

    Args:
        image: RGB, (H, W, 3), uint8, any strides; a NumPy array, or a tensor on the CPU.
        mode: "fast" for 8 hierarchies, "quality" for 80 and several times as many boxes.
        color_spaces: Instead of the mode's: some of "rgb", "hsv", "lab", "rgi" (normalised red and green, intensity),
            "hue" and "intensity".
        scales: Instead of the mode's: k of the segmentation, at least 0; larger ones give larger regions.
        similarities: Instead of the mode's: each a word of the letters C, T, S and F, for likeness in colour and in
            texture, small size, and filling each other's gaps; "CTSF" is the sum of all four.
        sigma: Of the Gaussian that smooths the image before segmentation, in pixels, 0 to 100.
        min_size: Least size of a segment in pixels; by default its scale. A region takes 1.3 KB of memory, so that tiny
            ones add up on a large image.
        max_boxes: Return no more than the first ones.
        seed: Of the order of the boxes.
        return_scores: Whether to return the scores as well.

    Returns:
        Boxes, (N, 4) int64, all different: x1, y1, x2, y2 in pixels, x2 and y2 exclusive, so that x2 - x1 is the width.
        Best first by the paper's rank: a region's place in its hierarchy, counted from the whole image, times a
        pseudo-random number in [0, 1), so that any first part is a fair sample of sizes and hierarchies; but boxes that
        overlap a better one with an IoU above 0.8 come after all others. With ``return_scores`` also the scores, (N,)
        float64 in (0, 1], descending: 1 / (1 + rank). NumPy arrays, or tensors if ``image`` is one. The same from run
        to run, with every instruction set and for any number of threads; an image without pixels has no boxes.

    Raises:
        ValueError: If an argument is not as above or the image has more than 2^28 pixels.
    """
    pixels = _to_pixels(image)
    if mode not in _MODES:
        _fail("mode 'fast' or 'quality'", repr(mode))
    default_spaces, default_scales, default_similarities = _MODES[mode]
    spaces = list(default_spaces if color_spaces is None else color_spaces)
    if not spaces or not set(spaces) <= set(_COLOR_SPACES):
        _fail(f"color_spaces of {_COLOR_SPACES}", repr(color_spaces))
    ks = [float(k) for k in (default_scales if scales is None else scales)]
    if not ks or not all(0 <= k < math.inf for k in ks):
        _fail("scales of at least 0", repr(scales))
    words = list(default_similarities if similarities is None else similarities)
    if not words or not all(word and set(word) <= set("CTSF") for word in words):
        _fail("similarities as words of the letters C, T, S and F", repr(similarities))
    if not 0 <= sigma <= _MAX_SIGMA:
        _fail(f"sigma from 0 to {_MAX_SIGMA}", repr(sigma))
    for name, count in (("min_size", min_size), ("max_boxes", max_boxes)):
        if count is not None and count < 0:
            _fail(f"{name} of at least 0", repr(count))
    smallest = -1 if min_size is None else min(min_size, pixels.size)
    boxes, ranks = _C.selective_search(pixels, spaces, ks, words, sigma, smallest, seed % 2**64)
    boxes, scores = boxes[:max_boxes], 1 / (1 + ranks[:max_boxes])
    if isinstance(image, Tensor):
        tensor = torch.from_numpy(boxes)
        return (tensor, torch.from_numpy(scores)) if return_scores else tensor
    return (boxes, scores) if return_scores else boxes


def _to_pixels(image: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    if isinstance(image, Tensor):
        if image.device.type != "cpu":
            _fail("image on the CPU", str(image.device))
    elif not isinstance(image, np.ndarray):
        _fail("image as a NumPy array or a tensor", type(image).__name__)
    dtype = str(image.dtype).removeprefix("torch.")
    if dtype != "uint8":
        _fail("image of dtype uint8", dtype)
    if image.ndim != 3 or image.shape[2] != 3:
        _fail("image of shape (*, *, 3)", str(tuple(image.shape)))
    if image.shape[0] * image.shape[1] > _MAX_PIXELS:
        _fail(f"image of at most {_MAX_PIXELS} pixels", str(tuple(image.shape)))
    return image.numpy() if isinstance(image, Tensor) else image


def _fail(expected: str, got: str) -> NoReturn:
    raise ValueError(f"selective_search: expected {expected}, got {got}")
