"""Anchors' sizes learned from the boxes of a data set."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import _C

_Sizes = TypeVar("_Sizes", Tensor, NDArray[Any])
_ITERATIONS = 300  # of k-means, at most
_SMALLEST, _LARGEST = 1e-60, 1e60  # products of four sizes stay in range

# YOLOv5's evolution: the share of numbers that change, by how much (standard deviation of the factor), and its limits.
_MUTATED, _STRENGTH, _FACTORS = 0.9, 0.1, (0.3, 3.0)


def kmeans_anchors(
    sizes: _Sizes,
    k: int,
    metric: str = "iou",
    evolve: bool = True,
    generations: int = 1000,
    threshold: float = 4.0,
    seed: int = 0,
) -> _Sizes:
    """Anchors that fit boxes of given sizes: k-means, then a genetic search.

    k-means on 1 - IoU as in "YOLO9000" (https://arxiv.org/abs/1612.08242, section 2), or on ratios, begun by k-means++.
    Then the evolution of YOLOv5's automatic anchors: random changes of the anchors, kept where they raise the fitness.
    A size's likeness to an anchor is the smallest of w/a, a/w, h/b, b/h; the fitness is the mean likeness of the sizes
    to their best anchors, where one below 1 / ``threshold`` counts as 0.

    Args:
        sizes: Widths and heights, (N, 2), N at least ``k``, any real dtype; a NumPy array or a tensor. Positive, from
            1e-60 to 1e60, in any unit.
        k: Number of anchors.
        metric: What k-means clusters by: "iou" of boxes with the same corner, or "ratio", the likeness above.
        evolve: Whether to search after k-means.
        generations: Steps of the search.
        threshold: Largest ratio of sides at which an anchor is trained to become a box, above 1.
        seed: Of k-means and the search.

    Returns:
        Widths and heights, (k, 2), by ascending area; a tensor on the device of ``sizes`` or an array, as that is, and
        of its dtype if that is float32 or float64, else float32. The same from run to run and for any number of
        threads. The fitness is at least that after k-means.

    Raises:
        ValueError: If an argument is not as above.
    """
    op = "kmeans_anchors"
    columns = _to_columns(op, "sizes", sizes)
    if not 1 <= k <= columns.shape[1]:
        raise ValueError(f"{op}: expected k from 1 to the number of sizes, {columns.shape[1]}, got {k}")
    if metric not in ("iou", "ratio"):
        raise ValueError(f"{op}: expected metric 'iou' or 'ratio', got {metric!r}")
    if generations < 0:
        raise ValueError(f"{op}: expected generations of at least 0, got {generations}")
    _check_threshold(op, threshold)
    anchors = _C.cluster_sizes(columns, k, metric, seed % 2**64, _ITERATIONS)
    if evolve:
        anchors = _evolve(columns, anchors, generations, threshold, seed % 2**64)
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    if isinstance(sizes, Tensor):
        double = sizes.dtype == torch.float64
        return torch.from_numpy(anchors).to(sizes.device, torch.float64 if double else torch.float32)
    return anchors.astype(np.float64 if np.asarray(sizes).dtype == np.float64 else np.float32)


def best_possible_recall(sizes: Tensor | ArrayLike, anchors: Tensor | ArrayLike, threshold: float = 4.0) -> float:
    """Share of the boxes that some anchor can be trained to become, as YOLOv5 reports it.

    Args:
        sizes: Boxes' widths and heights, (N, 2), N at least 1, any real dtype, from 1e-60 to 1e60.
        anchors: Anchors' widths and heights, (..., 2), at least one; of several levels, say.
        threshold: Largest ratio of sides, above 1: an anchor (a, b) serves a box (w, h) if the smallest of w/a, a/w,
            h/b and b/h is above 1 / ``threshold``.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: If an argument is not as above.
    """
    op = "best_possible_recall"
    columns = _to_columns(op, "sizes", sizes)
    candidates = _to_array(anchors)
    candidates = candidates.reshape(-1, 2) if candidates.ndim and candidates.shape[-1] == 2 else candidates
    _check_threshold(op, threshold)
    return _C.fit_anchors(columns, _to_columns(op, "anchors", candidates).T.copy(), threshold)[1]


def _evolve(
    columns: NDArray[np.float64], anchors: NDArray[np.float64], generations: int, threshold: float, seed: int
) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    fitness, _ = _C.fit_anchors(columns, anchors, threshold)
    for _ in range(generations):
        chosen = random.random(anchors.shape) < _MUTATED
        change = _STRENGTH * random.random() * random.standard_normal(anchors.shape)
        mutant = anchors * np.clip(1 + chosen * change, *_FACTORS)
        mutant_fitness, _ = _C.fit_anchors(columns, mutant, threshold)
        if mutant_fitness > fitness:
            anchors, fitness = mutant, mutant_fitness
    return anchors


def _to_array(values: Tensor | ArrayLike) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()
    return np.asarray(values)


def _to_columns(op: str, name: str, values: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Widths and heights as rows, (2, N), checked."""
    array = _to_array(values)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(f"{op}: expected {name} of shape (*, 2), not empty, got {array.shape}")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{op}: expected {name} of a floating or integer dtype, got {array.dtype}")
    columns = np.ascontiguousarray(array.T, dtype=np.float64)
    wrong = ~((columns >= _SMALLEST) & (columns <= _LARGEST))
    if wrong.any():
        row = int(wrong.any(axis=0).argmax())
        raise ValueError(f"{op}: expected {name} from {_SMALLEST} to {_LARGEST}, got {array[row]} in row {row}")
    return columns


def _check_threshold(op: str, threshold: float) -> None:
    if not 1 < threshold < np.inf:
        raise ValueError(f"{op}: expected threshold above 1, got {threshold}")
