"""What every detector is: images -> backbone -> neck -> head -> boxes."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..heads import Head
from ..images import Detections, ImageBatch, ImageTransform, Target, check_targets, unpad


class Detector(nn.Module):
    """A detector, put together from its parts; called as torchvision's are.

    In training ``model(images, targets)`` gives a dict of losses, in evaluation ``model(images)`` a list with
    "boxes" (N, 4), "labels" (N,) and "scores" (N,) of each image, best first.

    Args:
        transform: Images to a batch and boxes back.
        backbone: (B, 3, H, W) to a list of features, with ``channels`` and ``strides``.
        neck: Features to features, with ``channels`` and ``strides``.
        head: Features to losses and detections.
    """

    def __init__(self, transform: ImageTransform, backbone: nn.Module, neck: nn.Module, head: Head) -> None:
        super().__init__()
        self.transform, self.backbone, self.neck = transform, backbone, neck
        self.head = head

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            images: Each (3, H, W), floating, values in 0 to 1; sizes may differ.
            targets: In training, of each image "boxes" (N, 4), corners in pixels, and "labels" (N,) int64.

        Raises:
            ValueError: If an image or target is not as above, or a box has no area: the message names them.
        """
        if self.training:
            targets = check_targets(targets, len(images), self.head.labels)
            batch = self.transform(images)
            return self.head.losses(self.features(batch), batch, self.transform.resize_targets(targets, batch))
        return unpad(self.detect(images))

    def features(self, batch: ImageBatch) -> list[Tensor]:
        """What the head sees."""
        return self.neck(self.backbone(batch.tensors))

    def detect(self, images: Sequence[Tensor] | Tensor, fixed_size: bool = False) -> Detections:
        """Detections of all images in padded tensors; with ``fixed_size`` no size on the way depends on the data."""
        batch = self.transform(images)
        return self.transform.restore(self.head.detect(self.features(batch), batch, fixed_size), batch)

    def export_ready(self) -> "FixedSizeDetector":
        """This detector with outputs of fixed size, for ``torch.export`` and ``torch.compile``; shares all weights."""
        return FixedSizeDetector(self)


class FixedSizeDetector(nn.Module):
    """Inference whose sizes depend on the sizes of the images alone.

    ``model(images)``, (B, 3, H, W) or a list, gives boxes (B, D, 4), scores (B, D), labels (B, D) and
    how many of each image there are (B,); what stands behind these is padding.

    Args:
        detector: Put into evaluation mode.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector.eval()

    def forward(self, images: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes, scores, labels, number = self.detector.detect(images, fixed_size=True)
        return boxes, scores, labels, number

    def train(self, mode: bool = True) -> "FixedSizeDetector":
        if mode:
            raise ValueError("FixedSizeDetector: expected evaluation mode; train the detector it was made from")
        return super().train(mode)
