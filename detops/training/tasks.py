"""What a batch means: its losses, its predictions, and how these are judged."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..detectors import Detector
from ..images import Target


class Metrics(Protocol):
    """What an evaluation found."""

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the number that says which weights are the best."""
        ...

    def as_dict(self) -> Mapping[str, float]: ...


class Evaluator(Protocol):
    """Collects predictions, image by image, on each process; one of them merges all and computes."""

    def update(self, target: Any, prediction: Any) -> None: ...

    def merge(self, others: Sequence[Any]) -> None: ...

    def compute(self) -> Metrics: ...


class Task(Protocol):
    """What training asks of a task. Images are floating, (3, H, W), values in 0 to 1."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name; the sum is minimised."""
        ...

    def predictions(self, model: nn.Module, images: Sequence[Tensor]) -> Sequence[Any]:
        """Of each image what the evaluator takes."""
        ...

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        """An empty one."""
        ...


class Detection:
    """Boxes with labels; those of a data set start at 0, those of a detector where its head says."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        start = _first_label(model)
        return model(images, [{"boxes": target["boxes"], "labels": target["labels"] + start} for target in targets])

    def predictions(self, model: nn.Module, images: Sequence[Tensor]) -> Sequence[Target]:
        start = _first_label(model)
        return [found | {"labels": found["labels"] - start} for found in model(images)]

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        from ..evaluation import CocoEvaluator

        return CocoEvaluator(classes)


class Classification:
    """One label for each image."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[int]) -> dict[str, Tensor]:
        return model(images, torch.as_tensor(targets, device=images[0].device))

    def predictions(self, model: nn.Module, images: Sequence[Tensor]) -> Sequence[Tensor]:
        return model(images)

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        from ..evaluation import ClassificationEvaluator

        return ClassificationEvaluator(classes)


class Segmentation:
    """A label for each pixel, (H, W)."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Tensor]:
        return model(images, targets)

    def predictions(self, model: nn.Module, images: Sequence[Tensor]) -> Sequence[Tensor]:
        return model(images)

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        from ..evaluation import SegmentationEvaluator

        return SegmentationEvaluator(classes)


def of(name: str) -> Task:
    """A task by its name in :data:`detops.model_file.TASKS`."""
    tasks: dict[str, Task] = {"detect": Detection(), "classify": Classification(), "segment": Segmentation()}
    return tasks[name]


def _first_label(model: nn.Module) -> int:
    return cast(Detector, model).head.labels.start
