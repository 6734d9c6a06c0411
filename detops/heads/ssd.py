"""SSD's head: softmax scores and box offsets at every default box, trained on the hardest negatives."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import Detections, ImageBatch, Target
from ..necks.ssd import xavier_initialise
from ..ops import encode_boxes, smooth_l1_loss
from . import Head
from .anchors import DefaultBoxes
from .layers import all_rows, best_detections, decode_in_images, gather_rows
from .matching import match_default_boxes

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
Predictor = Callable[[int, int], nn.Module]  # of so many channels to so many


class Predictions(NamedTuple):
    """Of all levels, in the order of the default boxes."""

    logits: Tensor  # (B, N, C)
    deltas: Tensor  # (B, N, 4)


class SSDHead(Head):
    """Head of "SSD: Single Shot MultiBox Detector" (https://arxiv.org/abs/1512.02325).

    Args:
        channels: Of each level.
        num_classes: C with the background, which is label 0.
        anchors: Default boxes of each level.
        predictor: Makes what predicts from a level; by default a 3×3 convolution.
        score_thresh: Least score of a detection, exclusive.
        nms_thresh: Overlap above which the lower score of a class is dropped.
        detections_per_img: Most detections of an image.
        iou_thresh: Least overlap of a default box that is an object.
        topk_candidates: Most candidates of each class.
        positive_fraction: Share of objects among the boxes that count in the loss.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        anchors: DefaultBoxes,
        predictor: Predictor | None = None,
        *,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 200,
        iou_thresh: float = 0.5,
        topk_candidates: int = 400,
        positive_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        if len(channels) != len(anchors.per_location):
            raise ValueError(f"SSDHead: expected anchors of {len(channels)} levels, got {len(anchors.per_location)}")
        self.anchors = anchors
        self.num_classes = num_classes
        self.labels = range(1, num_classes)
        self.score_thresh, self.nms_thresh, self.iou_thresh = score_thresh, nms_thresh, iou_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.negatives_per_positive = (1.0 - positive_fraction) / positive_fraction
        make = predictor or _conv_predictor
        levels = list(zip(channels, anchors.per_location, strict=True))
        self.classification = nn.ModuleList(make(c, a * num_classes) for c, a in levels)
        self.regression = nn.ModuleList(make(c, a * 4) for c, a in levels)

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        logits = [predict(f) for predict, f in zip(self.classification, features, strict=True)]
        deltas = [predict(f) for predict, f in zip(self.regression, features, strict=True)]
        return Predictions(all_rows(logits, self.num_classes), all_rows(deltas, 4))

    def losses(self, features: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses "bbox_regression" and "classification", each per object of the batch."""
        logits, deltas = self(features)
        anchors = self.anchors(features, batch.tensors.shape[-2:])
        matches = torch.stack(match_default_boxes(anchors, targets, self.iou_thresh))  # (B, N)
        image, place = (matches >= 0).nonzero(as_tuple=True)
        before = torch.tensor([0, *(len(target["boxes"]) for target in targets)]).cumsum(0).to(image.device)
        objects = before[image] + matches[image, place]  # among the objects of all images

        boxes = torch.cat([target["boxes"] for target in targets])[objects]
        box_loss = smooth_l1_loss(
            deltas[image, place], encode_boxes(boxes, anchors[place], BOX_WEIGHTS), reduction="sum"
        )
        labels = torch.zeros_like(matches)
        labels[image, place] = torch.cat([target["labels"] for target in targets])[objects]
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        total = max(1, len(objects))
        positive = labels > 0
        hard = self._hard_negatives(losses.detach(), positive)
        return {
            "bbox_regression": box_loss / total,
            "classification": (losses[positive].sum() + losses[hard].sum()) / total,
        }

    def _hard_negatives(self, losses: Tensor, positive: Tensor) -> Tensor:
        """(B, N): of each image the negatives with the highest losses, so many to each of its positives.

        Where an image has fewer, positives fill up the number and count twice, as in torchvision.
        """
        wanted = self.negatives_per_positive * positive.sum(dim=1, keepdim=True)
        order = losses.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True)
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places) < wanted

    def detect(self, features: Sequence[Tensor], batch: ImageBatch, fixed_size: bool = False) -> Detections:
        """The best detections of each image, labels from 1 to C - 1."""
        logits, deltas = self(features)
        anchors = self.anchors(features, batch.tensors.shape[-2:])
        scores = logits.softmax(dim=-1)[..., 1:].transpose(1, 2)  # (B, C - 1, N)
        best, place = scores.topk(min(self.topk_candidates, scores.shape[2]), dim=2)
        boxes = decode_in_images(deltas, anchors, batch, BOX_WEIGHTS)
        labels = torch.arange(1, self.num_classes, device=best.device)[:, None].expand(best.shape[1:])
        return best_detections(
            gather_rows(boxes, place.flatten(1)),
            best.flatten(1),
            labels.flatten(),
            self.nms_thresh,
            self.score_thresh,
            self.detections_per_img,
        )


def _conv_predictor(in_channels: int, out_channels: int) -> nn.Module:
    predictor = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    xavier_initialise(predictor)
    return predictor
