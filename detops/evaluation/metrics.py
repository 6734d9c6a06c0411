"""What the evaluators share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
ImageId = int | str
Value = TypeVar("Value")


class Table(NamedTuple):
    """Text in columns; the first column is a name, the others are numbers."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Metrics(Protocol):
    """What an evaluator computes."""

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the number that "best" means."""

    def as_dict(self) -> dict[str, float]:
        """All numbers by name; those of one class are named "AP/cat"."""

    def table(self) -> Table:
        """A line for each class, and one for all."""


class DetectionEvaluator(Protocol):
    """An evaluator of detections: by COCO's rules or by those of Pascal VOC."""

    def update(self, target: Mapping[str, Any], detections: Mapping[str, Tensor]) -> None:
        """Counts an image.

        Args:
            target: "image_id", "boxes" (N, 4), corners in pixels, "labels" (N,) from 0, and where the source has
                them "iscrowd" (N,), "difficult" (N,) and "area" (N,).
            detections: "boxes" (D, 4), "labels" (D,) from 0 and "scores" (D,).

        Raises:
            ValueError: If an image comes twice, or a label is not that of a class.
        """

    def merge(self, others: Iterable[Any]) -> None:
        """Adds what other evaluators of this kind counted, from other processes say."""

    def compute(self) -> Metrics:
        """The metrics of all images so far."""


def add_image(images: dict[ImageId, Value], image_id: ImageId, value: Value) -> None:
    """Files an image under its number or name, once."""
    if image_id in images:
        raise ValueError(f"expected each image once, got {image_id!r} twice")
    images[image_id] = value


def in_order(images: Mapping[ImageId, Value]) -> list[Value]:
    """By number, or else by name: equal scores rank the same however images came."""
    return [images[key] for key in sorted(images, key=lambda key: (isinstance(key, str), key))]


def image_id(target: Mapping[str, Any]) -> ImageId:
    """Number or name of the image that a target is of."""
    value = target["image_id"]
    return value if isinstance(value, str) else int(value)


def array(values: Any, dtype: type) -> Array:
    """A tensor, wherever it is, or a sequence."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=dtype)


def flags(target: Mapping[str, Any], name: str) -> Array:
    """(N,) bool, all false if the target does not have it."""
    return array(target[name], bool) if name in target else np.zeros(len(target["boxes"]), dtype=bool)


def labels(values: Any, num_classes: int) -> Array:
    """Class numbers (N,).

    Raises:
        ValueError: If one is not from 0 to C - 1.
    """
    found = array(values, np.int64)
    if len(found) and not (found.min() >= 0 and found.max() < num_classes):
        raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {found.min()} to {found.max()}")
    return found


def mean(values: Any) -> float:
    """Of those that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def shown(value: float) -> str:
    """Three decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"
