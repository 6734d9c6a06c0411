"""COCO's evaluation as detectron2's compiled module offers it, in plain Python.

The matching of detections with ground truth, and precision over recall, are those of pycocotools.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class InstanceAnnotation:
    """An object or a detection.

    Args:
        id: Its number.
        score: Of a detection.
        area: In pixels.
        is_crowd: Whether it stands for several objects.
        ignore: Whether it counts neither for nor against.
    """

    id: int
    score: float
    area: float
    is_crowd: bool
    ignore: bool


@dataclass
class ImageEvaluation:
    """Detections (D) of one image, category and range of areas, by score, and what they match at T thresholds."""

    scores: NDArray[np.float64]  # (D,)
    matched: NDArray[np.bool_]  # (T, D)
    ignored: NDArray[np.bool_]  # (T, D)
    objects: int  # that are not ignored


def COCOevalEvaluateImages(  # noqa: N802
    area_ranges: Sequence[Sequence[float]],
    max_detections: int,
    iou_thresholds: Sequence[float],
    image_category_ious: Sequence[Sequence[Any]],
    image_category_ground_truth: Sequence[Sequence[Sequence[InstanceAnnotation]]],
    image_category_detections: Sequence[Sequence[Sequence[InstanceAnnotation]]],
) -> list[ImageEvaluation]:
    """Matches, by category, then range of areas, then image.

    Args:
        area_ranges: Least and largest area of the objects that count, each.
        max_detections: Of one category in an image.
        iou_thresholds: T.
        image_category_ious: Image by image, category by category: the overlaps (D, G), the detections by score.
        image_category_ground_truth: Likewise.
        image_category_detections: Likewise, in any order.
    """
    images = range(len(image_category_ious))
    categories = range(len(image_category_ious[0]) if images else 0)
    return [
        _match(
            image_category_ious[i][c],
            image_category_ground_truth[i][c],
            image_category_detections[i][c],
            area_range,
            max_detections,
            iou_thresholds,
        )
        for c in categories
        for area_range in area_ranges
        for i in images
    ]


def COCOevalAccumulate(params: Any, evaluations: Sequence[ImageEvaluation]) -> dict[str, Any]:  # noqa: N802
    """Precision, recall and scores: flat, of shape ``counts`` (T, R, K, A, M), recall without R.

    Args:
        params: pycocotools' ``Params``.
        evaluations: What :func:`COCOevalEvaluateImages` returned.
    """
    thresholds, recalls, limits = params.iouThrs, np.asarray(params.recThrs), params.maxDets
    images, areas = len(params.imgIds), len(params.areaRng)
    categories = len(params.catIds) if params.useCats else 1
    counts = [len(thresholds), len(recalls), categories, areas, len(limits)]
    precision, scores = -np.ones(counts), -np.ones(counts)
    recall = -np.ones([counts[0], *counts[2:]])
    for c in range(categories):
        for a in range(areas):
            first = (c * areas + a) * images
            of_images = evaluations[first : first + images]
            objects = sum(image.objects for image in of_images)
            for m, limit in enumerate(limits):
                if objects > 0:
                    curves = _curves(of_images, limit, objects, recalls)
                    precision[:, :, c, a, m], scores[:, :, c, a, m], recall[:, c, a, m] = curves
    return {
        "params": params,
        "counts": counts,
        "precision": precision.ravel().tolist(),
        "recall": recall.ravel().tolist(),
        "scores": scores.ravel().tolist(),
    }


def _match(
    ious: Any,
    objects: Sequence[InstanceAnnotation],
    detections: Sequence[InstanceAnnotation],
    area_range: Sequence[float],
    max_detections: int,
    iou_thresholds: Sequence[float],
) -> ImageEvaluation:
    """Detections, best first, take the free object that they overlap most, one that is ignored only if no other."""
    low, high = area_range
    best = np.argsort([-d.score for d in detections], kind="mergesort")[:max_detections]
    left_out = np.array([g.ignore or not low <= g.area <= high for g in objects], dtype=bool)
    order = np.argsort(left_out, kind="mergesort")  # those that count first
    matched = np.zeros((len(iou_thresholds), len(best)), dtype=bool)
    ignored = np.zeros_like(matched)
    for t, threshold in enumerate(iou_thresholds):
        free = np.ones(len(objects), dtype=bool)
        for d in range(len(best)):
            overlap, found = min(threshold, 1 - 1e-10), -1
            for g in order:
                if not free[g] and not objects[g].is_crowd:
                    continue
                if found >= 0 and not left_out[found] and left_out[g]:
                    break
                if ious[d][g] >= overlap:
                    overlap, found = ious[d][g], g
            if found >= 0:
                free[found], matched[t, d], ignored[t, d] = False, True, left_out[found]
    outside = np.array([not low <= detections[d].area <= high for d in best], dtype=bool)
    ignored |= ~matched & outside
    scores = np.array([detections[d].score for d in best], dtype=np.float64)
    return ImageEvaluation(scores, matched, ignored, int((~left_out).sum()))


def _curves(
    images: Sequence[ImageEvaluation], limit: int, objects: int, recalls: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision and scores at these recalls, (T, R) each, and the recall reached, (T,)."""
    scores = np.concatenate([image.scores[:limit] for image in images])
    order = np.argsort(-scores, kind="mergesort")
    scores = scores[order]
    matched, ignored = (
        np.concatenate([part[:, :limit] for part in parts], axis=1)[:, order]
        for parts in ([image.matched for image in images], [image.ignored for image in images])
    )
    right = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    reached = right / objects
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at = np.stack([np.searchsorted(row, recalls, side="left") for row in reached])  # (T, R)
    if len(scores) == 0:
        return np.zeros(at.shape), np.zeros(at.shape), np.zeros(len(at))
    there, places = at < len(scores), np.minimum(at, len(scores) - 1)
    picked = np.take_along_axis(precision, places, axis=1)
    return np.where(there, picked, 0.0), np.where(there, scores[places], 0.0), reached[:, -1]
