"""Heads: a pyramid of features to boxes and losses."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..images import Detections, ImageBatch, Target


class Head(nn.Module):
    """What a detector asks of its head.

    Attributes:
        labels: Those that targets may have.
    """

    labels: range

    def losses(self, features: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses by name, for targets in pixels of the batch."""
        raise NotImplementedError

    def detect(self, features: Sequence[Tensor], batch: ImageBatch, fixed_size: bool = False) -> Detections:
        """The best detections of each image, in pixels of the batch; see :meth:`detops.detectors.Detector.detect`."""
        raise NotImplementedError
