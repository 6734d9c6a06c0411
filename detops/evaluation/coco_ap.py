"""COCO's average precision and recall of boxes, computed by faster-coco-eval: pycocotools' numbers."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .._errors import UserError
from .metrics import Array, ImageId, Table, add_image, array, flags, image_id, in_order, labels, mean, shown

MEANINGS = {
    "AP": "mean over IoU 0.5, 0.55, …, 0.95",
    "AP50": "IoU of at least 0.5",
    "AP75": "IoU of at least 0.75",
    "APs": "small objects, up to 32² pixels",
    "APm": "medium objects, up to 96²",
    "APl": "large objects",
    "AR1": "recall, 1 detection per image",
    "AR10": "recall, 10 per image",
    "AR100": "recall, 100 per image",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}
AREAS = ("all", "small", "medium", "large")  # objects of up to 32², of up to 96², of more pixels
AREA_LIMITS = (32**2, 96**2)
RECALLS = np.linspace(0, 1, 101)
_IOU50 = 0  # the first of ten thresholds


class ClassResult(NamedTuple):
    """Of one class."""

    name: str
    ap: float  # mean over the IoU thresholds .50, .55, …, .95
    ap50: float
    objects: int  # without crowds
    detections: int


@dataclasses.dataclass(frozen=True)
class CocoMetrics:
    """COCO's numbers.

    Attributes:
        summary: The twelve of https://cocodataset.org/#detection-eval by name, see ``MEANINGS``.
        classes: Class by class.
        precision: (10, 101, C, 4): at each IoU threshold and recall (``RECALLS``), of each class, of objects of each
            size (``AREAS``), with at most 100 detections per image; NaN where there are no objects.
        objects: How many there are of each size, crowds left out.
    """

    summary: Mapping[str, float]
    classes: tuple[ClassResult, ...]
    precision: Array
    objects: tuple[int, ...]

    @property
    def main(self) -> tuple[str, float]:
        return "AP", self.summary["AP"]

    def as_dict(self) -> dict[str, float]:
        return {**self.summary, **{f"AP/{result.name}": result.ap for result in self.classes}}

    def table(self) -> Table:
        rows: list[tuple[str, ...]] = [
            (one.name, shown(one.ap), shown(one.ap50), str(one.objects), str(one.detections)) for one in self.classes
        ]
        total = (sum(one.objects for one in self.classes), sum(one.detections for one in self.classes))
        rows.append(("all", shown(self.summary["AP"]), shown(self.summary["AP50"]), *map(str, total)))
        return Table(("class", "AP", "AP50", "objects", "detections"), rows)

    def by_size(self, threshold: int | None = None) -> list[float]:
        """AP of small, medium and large objects, at one of the ten IoU thresholds or over all."""
        chosen = self.precision if threshold is None else self.precision[threshold]
        return [mean(chosen[..., area]) for area in range(1, len(AREAS))]


class _Image(NamedTuple):
    boxes: Array  # (N, 4) corners
    labels: Array
    ignored: Array
    areas: Array
    found_boxes: Array  # (D, 4)
    found_labels: Array
    scores: Array


class CocoEvaluator:
    """Average precision by COCO's rules; takes and gives what :class:`~detops.evaluation.DetectionEvaluator` says.

    Crowds are ignored: what lies in one is neither right nor wrong. So are objects marked difficult, by the same rule.
    The size of an object is its "area", that of its mask in COCO's files, else that of its box.

    Args:
        classes: Names, in the order of the labels.

    Raises:
        UserError: If faster-coco-eval is not installed.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        _library()
        self.classes = tuple(classes)
        self._images: dict[ImageId, _Image] = {}

    def update(self, target: Mapping[str, Any], detections: Mapping[str, Tensor]) -> None:
        boxes, found = array(target["boxes"], np.float64), array(detections["boxes"], np.float64)
        image = _Image(
            boxes,
            labels(target["labels"], len(self.classes)),
            flags(target, "iscrowd") | flags(target, "difficult"),
            array(target["area"], np.float64) if "area" in target else _sizes(boxes).prod(axis=1),
            found,
            labels(detections["labels"], len(self.classes)),
            array(detections["scores"], np.float64),
        )
        add_image(self._images, image_id(target), image)

    def merge(self, others: Iterable["CocoEvaluator"]) -> None:
        for other in others:
            for key, image in other._images.items():
                add_image(self._images, key, image)

    def compute(self) -> CocoMetrics:
        """The metrics of all images so far."""
        library, images = _library(), in_order(self._images)
        truth = library.COCO(
            {
                "images": [{"id": number} for number in range(max(len(images), 1))],
                "categories": [{"id": number, "name": name} for number, name in enumerate(self.classes)],
                "annotations": _objects(images),
            }
        )
        evaluation = library.COCOeval_faster(truth, truth.loadRes(_results(images)), iouType="bbox")
        evaluation.run()
        precision = evaluation.eval["precision"][..., -1]
        return self._metrics(evaluation.stats, np.where(precision < 0, math.nan, precision), images)

    def _metrics(self, stats: Array, precision: Array, images: list[_Image]) -> CocoMetrics:
        truth = _joined([image.labels[~image.ignored] for image in images])
        areas = _joined([image.areas[~image.ignored] for image in images])
        found = _joined([image.found_labels for image in images])
        classes = tuple(
            ClassResult(
                name,
                mean(precision[:, :, number, 0]),
                mean(precision[_IOU50, :, number, 0]),
                int((truth == number).sum()),
                int((found == number).sum()),
            )
            for number, name in enumerate(self.classes)
        )
        sizes = np.bincount(np.searchsorted(AREA_LIMITS, areas), minlength=len(AREA_LIMITS) + 1)
        return CocoMetrics(
            {name: float(value) if value >= 0 else math.nan for name, value in zip(MEANINGS, stats, strict=True)},
            classes,
            precision,
            (len(truth), *map(int, sizes)),
        )


def _library() -> Any:
    try:
        import faster_coco_eval
    except ImportError as error:
        raise UserError('COCO metrics need faster-coco-eval: pip install "detops[training]"') from error
    return faster_coco_eval


def _objects(images: list[_Image]) -> list[dict[str, Any]]:
    """COCO's annotations; their numbers start at 1, since 0 says "unmatched" in the library."""
    rows = [
        {"image_id": number, "category_id": label, "bbox": box, "iscrowd": int(ignored), "area": area}
        for number, image in enumerate(images)
        for label, box, ignored, area in zip(
            image.labels.tolist(), _xywh(image.boxes), image.ignored.tolist(), image.areas.tolist(), strict=True
        )
    ]
    return [{"id": number, **row} for number, row in enumerate(rows, start=1)]


def _results(images: list[_Image]) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": label, "bbox": box, "score": score}
        for number, image in enumerate(images)
        for label, box, score in zip(
            image.found_labels.tolist(), _xywh(image.found_boxes), image.scores.tolist(), strict=True
        )
    ]


def _xywh(boxes: Array) -> list[list[float]]:
    return np.concatenate([boxes[:, :2], _sizes(boxes)], axis=1).tolist()


def _sizes(boxes: Array) -> Array:
    return boxes[:, 2:] - boxes[:, :2]


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0)
