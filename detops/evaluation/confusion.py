"""Metrics of classification and of semantic segmentation, both from a confusion matrix."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..images import IGNORED
from .metrics import Array, Table, array, labels, mean, shown


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics:
    """Of images that are each of one class.

    Attributes:
        classes: Names.
        confusion: (C, C): how many images of class i were taken for class j.
    """

    classes: tuple[str, ...]
    confusion: Array

    @property
    def main(self) -> tuple[str, float]:
        return "accuracy", _ratio(self.confusion.trace(), self.confusion.sum())

    @property
    def recall(self) -> Array:
        """(C,): of the images of each class, the share taken for it."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def precision(self) -> Array:
        """(C,): of the images taken for each class, the share that is of it."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    def as_dict(self) -> dict[str, float]:
        return {**dict([self.main]), **_by_class("recall", self.classes, self.recall)}

    def table(self) -> Table:
        counts = self.confusion.sum(axis=1)
        columns = zip(self.classes, self.recall, self.precision, counts, strict=True)
        rows = [(name, shown(recall), shown(precision), str(images)) for name, recall, precision, images in columns]
        rows.append(("all", shown(self.main[1]), shown(mean(self.precision)), str(counts.sum())))
        return Table(("class", "accuracy", "precision", "images"), rows)


@dataclasses.dataclass(frozen=True)
class SegmentationMetrics:
    """Of images each of whose pixels is of one class.

    Attributes:
        classes: Names.
        confusion: (C, C): how many pixels of class i were taken for class j.
    """

    classes: tuple[str, ...]
    confusion: Array

    @property
    def main(self) -> tuple[str, float]:
        return "mIoU", mean(self.iou)

    @property
    def iou(self) -> Array:
        """(C,): pixels that are of a class and were taken for it, of those that either holds for."""
        both = self.confusion.diagonal()
        return _ratio(both, self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - both)

    @property
    def pixel_accuracy(self) -> float:
        return _ratio(self.confusion.trace(), self.confusion.sum())

    def as_dict(self) -> dict[str, float]:
        accuracy = {"pixel accuracy": self.pixel_accuracy}
        return {**dict([self.main]), **accuracy, **_by_class("IoU", self.classes, self.iou)}

    def table(self) -> Table:
        counts = self.confusion.sum(axis=1)
        recall = _ratio(self.confusion.diagonal(), counts)
        columns = zip(self.classes, self.iou, recall, counts, strict=True)
        rows = [(name, shown(iou), shown(share), str(pixels)) for name, iou, share, pixels in columns]
        rows.append(("all", shown(self.main[1]), shown(self.pixel_accuracy), str(counts.sum())))
        return Table(("class", "IoU", "pixel accuracy", "pixels"), rows)


class _ConfusionEvaluator:
    """Counts what was taken for what."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.confusion = np.zeros((len(self.classes),) * 2, dtype=np.int64)

    def merge(self, others: Iterable["_ConfusionEvaluator"]) -> None:
        """Adds what other evaluators of this kind counted, from other processes say."""
        for other in others:
            self.confusion = self.confusion + other.confusion

    def _count(self, truth: Array, predicted: Array) -> None:
        C = len(self.classes)
        pairs = labels(truth, C) * C + labels(predicted, C)
        self.confusion += np.bincount(pairs, minlength=C * C).reshape(C, C)


class ClassificationEvaluator(_ConfusionEvaluator):
    """Accuracy, of all images and class by class.

    Args:
        classes: Names, in the order of the labels.
    """

    def update(self, target: int, scores: Any) -> None:
        """Counts an image of class ``target``; the highest of ``scores`` (C,), of whatever scale, is the answer.

        Raises:
            ValueError: If there are not as many scores as classes, or there is no such class.
        """
        given = array(scores, np.float64)
        if given.shape != (len(self.classes),):
            raise ValueError(f"expected scores ({len(self.classes)},), got {given.shape}")
        self._count(np.array([int(target)]), np.array([given.argmax()]))

    def compute(self) -> ClassificationMetrics:
        """The metrics of all images so far."""
        return ClassificationMetrics(self.classes, self.confusion.copy())


class SegmentationEvaluator(_ConfusionEvaluator):
    """IoU of each class over the pixels of all images together, and their mean.

    Args:
        classes: Names, in the order of the labels.
    """

    def update(self, target: Any, predicted: Any) -> None:
        """Counts an image.

        Args:
            target: Classes of its pixels (H, W), 255 where they have none.
            predicted: What they were taken for (H, W), or the scores of all classes (C, H, W).

        Raises:
            ValueError: If shapes differ, or a number is not that of a class.
        """
        truth, found = array(target, np.int64), array(predicted, np.float64)
        if found.ndim == 3:
            found = found.argmax(axis=0)
        if truth.shape != found.shape:
            raise ValueError(f"expected a prediction for each pixel, {truth.shape}, got {found.shape}")
        counted = truth != IGNORED
        self._count(truth[counted], found[counted].astype(np.int64))

    def compute(self) -> SegmentationMetrics:
        """The metrics of all images so far."""
        return SegmentationMetrics(self.classes, self.confusion.copy())


def _ratio(part: Any, whole: Any) -> Any:
    """Part of whole, NaN where there is no whole."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole, dtype=np.float64)


def _by_class(what: str, classes: Sequence[str], values: Array) -> dict[str, float]:
    return {f"{what}/{name}": float(value) for name, value in zip(classes, values, strict=True)}
