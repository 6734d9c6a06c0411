"""What a batch means: its losses, and how predictions are judged."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..detectors import Detector
from ..evaluation import ClassificationEvaluator, CocoEvaluator, Metrics, SegmentationEvaluator
from ..images import Target


class Evaluator(Protocol):
    """Collects predictions, image by image, on each process; one that merges them all computes."""

    def update(self, target: Any, prediction: Any, /) -> None: ...

    def merge(self, others: Any, /) -> None: ...

    def compute(self) -> Metrics: ...


class Task(Protocol):
    """What training asks of a task."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name, whose sum is minimised; of images (3, H, W), floating, values in 0 to 1."""
        ...

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        """An empty one, for what :func:`detops.prediction.predict` gives."""
        ...


class Detection:
    """Boxes with labels; those of a data set start at 0, those of a detector where its head says."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        start = cast(Detector, model).head.labels.start
        return model(images, [{"boxes": target["boxes"], "labels": target["labels"] + start} for target in targets])

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        return CocoEvaluator(classes)


class Classification:
    """One label for each image."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[int]) -> dict[str, Tensor]:
        return model(images, torch.as_tensor(targets, device=images[0].device))

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        return ClassificationEvaluator(classes)


class Segmentation:
    """A label for each pixel, (H, W)."""

    def losses(self, model: nn.Module, images: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Tensor]:
        return model(images, targets)

    def evaluator(self, classes: Sequence[str]) -> Evaluator:
        return SegmentationEvaluator(classes)


def of(name: str) -> Task:
    """A task by its name in :data:`detops.model_file.TASKS`."""
    tasks: dict[str, Task] = {"detect": Detection(), "classify": Classification(), "segment": Segmentation()}
    return tasks[name]
