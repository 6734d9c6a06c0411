"""Pascal VOC's average precision, as its devkit computes it: https://doi.org/10.1007/s11263-009-0275-4, section 4.2."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..ops import box_iou
from .metrics import Array, ImageId, Table, add_image, array, flags, image_id, in_order, labels, mean, shown

HIT, MISS, IGNORED = 1, 0, -1


class VocClassResult(NamedTuple):
    """Of one class; ``recall`` and ``precision`` have a point for each detection that counts, best first."""

    name: str
    ap: float
    objects: int  # without the difficult ones
    difficult: int
    detections: int
    recall: Array
    precision: Array


@dataclasses.dataclass(frozen=True)
class VocMetrics:
    """Pascal VOC's numbers: the AP of each class, and their mean over the classes that have objects."""

    classes: tuple[VocClassResult, ...]

    @property
    def main(self) -> tuple[str, float]:
        return "mAP", mean([result.ap for result in self.classes])

    def as_dict(self) -> dict[str, float]:
        return {**dict([self.main]), **{f"AP/{result.name}": result.ap for result in self.classes}}

    def table(self) -> Table:
        columns = ("objects", "difficult", "detections")
        rows = [(one.name, shown(one.ap), *(str(getattr(one, column)) for column in columns)) for one in self.classes]
        totals = (str(sum(getattr(one, column) for one in self.classes)) for column in columns)
        rows.append(("all", shown(self.main[1]), *totals))
        return Table(("class", "AP", *columns), rows)


class _Image(NamedTuple):
    labels: Array
    difficult: Array
    found_labels: Array
    scores: Array
    outcomes: Array  # of each detection


class VocEvaluator:
    """Average precision by VOC's rules; takes and gives what :class:`~detops.evaluation.DetectionEvaluator` says.

    The detections of a class, best first, each take the object that they overlap most; a detection is a hit if that
    IoU reaches the threshold and the object was not taken before, else a miss. Difficult objects do not count, nor do
    detections of them. COCO's crowds are treated as difficult.

    Boxes are corners on the grid of pixel edges, as everywhere in detops: 10 pixels are 10 wide. The devkit has
    numbers of first and last pixel and adds 1; boxes read from its files by :mod:`detops.data` are as wide as there.

    Args:
        classes: Names, in the order of the labels.
        eleven_points: The mean of the precisions at recall 0, 0.1, …, 1, as VOC 2007 has it; else the area below the
            curve, as since 2010.
        iou_threshold: Least overlap of a hit.
        last_pixel: Boxes end with their last pixel, as in the devkit's files: widths and heights are one more.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        eleven_points: bool = False,
        iou_threshold: float = 0.5,
        last_pixel: bool = False,
    ) -> None:
        self.classes = tuple(classes)
        self.eleven_points, self.iou_threshold, self.last_pixel = eleven_points, iou_threshold, last_pixel
        self._images: dict[ImageId, _Image] = {}

    def update(self, target: Mapping[str, Any], detections: Mapping[str, Tensor]) -> None:
        truth = labels(target["labels"], len(self.classes))
        found = labels(detections["labels"], len(self.classes))
        scores = array(detections["scores"], np.float64)
        difficult = flags(target, "difficult") | flags(target, "iscrowd")
        overlaps = self._overlaps(detections["boxes"], target["boxes"])
        overlaps[found[:, None] != truth] = 0
        outcomes = _outcomes(overlaps, scores, difficult, self.iou_threshold)
        add_image(self._images, image_id(target), _Image(truth, difficult, found, scores, outcomes))

    def merge(self, others: Iterable["VocEvaluator"]) -> None:
        for other in others:
            for key, image in other._images.items():
                add_image(self._images, key, image)

    def compute(self) -> VocMetrics:
        """The metrics of all images so far."""
        images = in_order(self._images)
        return VocMetrics(tuple(self._class_result(*numbered, images) for numbered in enumerate(self.classes)))

    def _overlaps(self, found: Tensor, truth: Tensor) -> Array:
        """IoU (D, N)."""
        end = torch.tensor([0, 0, 1, 1] if self.last_pixel else [0, 0, 0, 0], dtype=torch.float64)
        boxes1, boxes2 = (torch.from_numpy(array(boxes, np.float64)).reshape(-1, 4) + end for boxes in (found, truth))
        return box_iou(boxes1, boxes2).numpy()

    def _class_result(self, number: int, name: str, images: list[_Image]) -> VocClassResult:
        of_class = [image.labels == number for image in images]
        objects = sum(int((own & ~image.difficult).sum()) for own, image in zip(of_class, images, strict=True))
        difficult = sum(int((own & image.difficult).sum()) for own, image in zip(of_class, images, strict=True))
        found = [image.found_labels == number for image in images]
        scores = np.concatenate([np.zeros(0), *(i.scores[own] for own, i in zip(found, images, strict=True))])
        outcomes = np.concatenate([np.zeros(0), *(i.outcomes[own] for own, i in zip(found, images, strict=True))])
        ranked = outcomes[np.argsort(-scores, kind="stable")]
        hits = np.cumsum(ranked[ranked != IGNORED] == HIT)
        precision = hits / np.arange(1, len(hits) + 1)
        recall = hits / objects if objects else np.full(len(hits), math.nan)
        area = eleven_point_precision if self.eleven_points else average_precision
        ap = area(hits, precision, objects) if objects else math.nan
        return VocClassResult(name, ap, objects, difficult, len(scores), recall, precision)


def _outcomes(overlaps: Array, scores: Array, difficult: Array, threshold: float) -> Array:
    """What each detection of an image is (D,), from its IoU with all objects of its class, (D, N)."""
    outcomes = np.full(len(scores), MISS)
    taken = np.zeros(len(difficult), dtype=bool)
    if not len(difficult):
        return outcomes
    for detection in np.argsort(-scores, kind="stable"):
        best = int(overlaps[detection].argmax())
        if overlaps[detection, best] < threshold:
            continue
        if difficult[best]:
            outcomes[detection] = IGNORED
        elif not taken[best]:
            outcomes[detection] = HIT
            taken[best] = True
    return outcomes


def average_precision(hits: Array, precision: Array, objects: int) -> float:
    """Area below the curve, after each precision is raised to the best one at its recall or a higher one."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * envelope).sum() / objects)


def eleven_point_precision(hits: Array, precision: Array, objects: int) -> float:
    """Mean over recalls 0, 0.1, …, 1 of the best precision at that recall or a higher one."""
    reached = hits * 10 >= np.arange(11)[:, None] * objects  # in whole numbers: 3 of 10 objects are a recall of 0.3
    return float(np.where(reached, precision, 0).max(axis=1, initial=0).mean())
