"""Image classification on the detectors' backbones: backbone → pooling → fully connected → softmax."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import backbones
from .images import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from .levels import Levels


class Classifier(nn.Module):
    """One label for an image.

    In training ``model(images, labels)`` gives a dict of losses, in evaluation ``model(images)`` the probabilities of
    all classes, (B, num_classes).

    Args:
        transform: Images to a batch.
        backbone: (B, 3, H, W) to a list of features, with ``channels`` and ``strides``; the last ones are pooled.
        num_classes: Labels are 0 to ``num_classes`` - 1.
        dropout: Share of the pooled features that training leaves out (https://jmlr.org/papers/v15/srivastava14a.html).
        label_smoothing: Share of a target spread over all classes (https://arxiv.org/abs/1512.00567, section 7).
    """

    def __init__(
        self,
        transform: ImageTransform,
        backbone: Levels,
        num_classes: int,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.transform, self.backbone = transform, backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.channels[-1], num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, images: Sequence[Tensor] | Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Losses in training, probabilities in evaluation.

        Args:
            images: Each (3, H, W), floating, values in 0 to 1; sizes may differ.
            labels: In training, of each image, (B,) int64.

        Raises:
            ValueError: If an image or a label is not as above: the message names it.
        """
        logits = self.classifier(self.dropout(self.features(images)))
        if not self.training:
            return logits.softmax(dim=1)
        labels = _check_labels(labels, *logits.shape)
        return {"classification": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def features(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """The mean of each channel of the last level, (B, channels): what another classifier can start from."""
        return self.backbone(self.transform(images).tensors)[-1].mean(dim=(2, 3))


def build(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    size: int = 224,
    stride: int = 32,
    pretrained_backbone: bool = False,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
    **options: Any,
) -> Classifier:
    """A classifier on any backbone.

    Args:
        backbone: Name, see :func:`detops.backbones.build`, or module.
        num_classes: Labels are 0 to ``num_classes`` - 1.
        size: Height and width that every image is resized to.
        stride: Of the features that are pooled.
        pretrained_backbone: Fetch published weights.
        frozen_stages: Leading stages of the backbone that are not trained.
        frozen_batch_norm: Batch normalisation with fixed statistics.
        image_mean: Of each channel.
        image_std: Of each channel.
        options: Further ones of :class:`Classifier`: ``dropout`` and ``label_smoothing``.
    """
    body = backbones.build(
        backbone,
        (stride,),
        pretrained=pretrained_backbone,
        frozen_stages=frozen_stages,
        frozen_batch_norm=frozen_batch_norm,
    )
    transform = ImageTransform(image_mean=image_mean, image_std=image_std, size_divisible=1, fixed_size=(size, size))
    return Classifier(transform, body, num_classes, **options)


def _check_labels(labels: Tensor | None, num_images: int, num_classes: int) -> Tensor:
    if labels is None:
        raise ValueError("expected labels in training, got None")
    if labels.shape != (num_images,) or labels.dtype != torch.int64:
        raise ValueError(f"expected labels ({num_images},) of torch.int64, got {tuple(labels.shape)} of {labels.dtype}")
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        at = int(wrong.int().argmax())
        raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {int(labels[at])} of images[{at}]")
    return labels
