"""RetinaNet's head: dense classification against the focal loss, and box regression."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..images import Detections, ImageBatch, Target
from ..ops import decode_boxes, encode_boxes, generalized_box_iou_loss, sigmoid_focal_loss_from_labels
from . import Head
from .anchors import AnchorGenerator
from .layers import (
    L1,
    DeltaLoss,
    Norm,
    best_detections,
    best_scores,
    conv_block,
    decode_in_images,
    gather_from_map,
    initialise_normal,
    rows,
)
from .matching import BETWEEN_THRESHOLDS, match_anchors

_PRIOR_PROBABILITY = 0.01  # of an object at the start of training (section 4.1)


class Predictions(NamedTuple):
    """Of each level."""

    logits: list[Tensor]  # (B, A * C, H, W)
    deltas: list[Tensor]  # (B, A * 4, H, W)


class RetinaNetHead(Head):
    """Head of "Focal Loss for Dense Object Detection" (https://arxiv.org/abs/1708.02002), section 4.

    Args:
        in_channels: Of every level.
        num_classes: C; labels are 0 to C - 1.
        anchors: One set for each level, as many in each.
        norm_layer: Makes the normalisation behind each convolution.
        box_loss: "l1" of the deltas, another loss of theirs, or "giou" of the boxes.
        score_thresh: Least score of a detection, exclusive.
        nms_thresh: Overlap above which the lower score of a class is dropped.
        detections_per_img: Most detections of an image.
        fg_iou_thresh: Least overlap of an anchor that is an object.
        bg_iou_thresh: Overlap below which it is background.
        topk_candidates: Most candidates of each level.
        norm_per_level: Normalise each level by itself; the convolutions are shared all the same.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        anchors: AnchorGenerator,
        norm_layer: Norm | None = None,
        box_loss: str | DeltaLoss = "l1",
        *,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 300,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        topk_candidates: int = 1000,
        norm_per_level: bool = False,
    ) -> None:
        super().__init__()
        if not callable(box_loss) and box_loss not in ("l1", "giou"):
            raise ValueError(f'RetinaNetHead: expected box_loss "l1", "giou" or a function, got {box_loss!r}')
        self.anchors = anchors
        self.num_classes = num_classes
        self.labels = range(num_classes)
        self.box_loss = L1 if box_loss == "l1" else box_loss
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.fg_iou_thresh, self.bg_iou_thresh = fg_iou_thresh, bg_iou_thresh
        per_location = anchors.per_location[0]
        levels = len(anchors.per_location) if norm_per_level else None
        self.classification = _tower(in_channels, per_location * num_classes, norm_layer, levels)
        self.regression = _tower(in_channels, per_location * 4, norm_layer, levels)
        prior = -math.log((1 - _PRIOR_PROBABILITY) / _PRIOR_PROBABILITY)
        nn.init.constant_(self.classification.get_parameter("predictor.bias"), prior)

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        return Predictions(self.classification(features), self.regression(features))

    def losses(self, features: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses "classification" and "bbox_regression", each per object and then the mean over images."""
        logits, deltas = self(features)
        anchors = self.anchors(features, batch.tensors.shape[-2:])
        matches = match_anchors(anchors, targets, self.fg_iou_thresh, self.bg_iou_thresh)
        return {
            "classification": self._classification_loss(logits, targets, matches),
            "bbox_regression": self._box_loss(deltas, anchors, targets, matches),
        }

    def _classification_loss(
        self, logits: Sequence[Tensor], targets: Sequence[Target], matches: Sequence[Tensor]
    ) -> Tensor:
        labels = torch.stack([self._labels_of(target, match) for target, match in zip(targets, matches, strict=True)])
        objects = torch.stack([(match >= 0).sum() for match in matches]).clamp(min=1)
        precision = torch.promote_types(logits[0].dtype, torch.float32)
        weight = (objects * len(targets)).to(precision).reciprocal()[:, None, None, None, None]
        losses = []
        start = 0
        for level in logits:
            of_anchors = level.unflatten(1, (-1, self.num_classes)).permute(0, 3, 4, 1, 2)  # (B, H, W, A, C)
            end = start + of_anchors[0, ..., 0].numel()
            of_level = labels[:, start:end].view(of_anchors.shape[:-1])
            losses.append(sigmoid_focal_loss_from_labels(of_anchors, of_level, reduction="sum", weight=weight))
            start = end
        return torch.stack(losses).sum()

    def _labels_of(self, target: Target, match: Tensor) -> Tensor:
        """(N,): the class of each anchor, C for background, -1 for what is ignored."""
        objects = len(target["labels"])
        classes = torch.cat([target["labels"], target["labels"].new_tensor([self.num_classes, -1])])
        place = torch.where(match >= 0, match, torch.where(match == BETWEEN_THRESHOLDS, objects + 1, objects))
        return classes[place]

    def _box_loss(
        self, deltas: Sequence[Tensor], anchors: Tensor, targets: Sequence[Target], matches: Sequence[Tensor]
    ) -> Tensor:
        losses = []
        every = torch.cat([rows(level, 4) for level in deltas], dim=1)
        for predicted, target, match in zip(every, targets, matches, strict=True):
            at = (match >= 0).nonzero()[:, 0]
            boxes = target["boxes"][match[at]]
            if callable(self.box_loss):
                loss = self.box_loss(predicted[at], encode_boxes(boxes, anchors[at]))
            else:
                loss = generalized_box_iou_loss(decode_boxes(predicted[at], anchors[at]), boxes, reduction="sum")
            losses.append(loss / max(1, len(at)))
        return torch.stack(losses).sum() / len(targets)

    def detect(self, features: Sequence[Tensor], batch: ImageBatch, fixed_size: bool = False) -> Detections:
        """The best detections of each image, labels from 0 to C - 1."""
        logits, deltas = self(features)
        anchors = self.anchors(features, batch.tensors.shape[-2:])
        scores, labels, chosen_deltas, chosen_anchors = [], [], [], []
        least = _logit(self.score_thresh)
        start = 0
        for level_logits, level_deltas in zip(logits, deltas, strict=True):
            best, place = best_scores(level_logits.flatten(1), self.topk_candidates, least)  # place in (A, C, H * W)
            locations = level_logits[0, 0].numel()
            channel, location = place // locations, place % locations
            per_location = level_logits.shape[1] // self.num_classes
            anchor = channel // self.num_classes
            scores.append(best.sigmoid())
            labels.append(channel % self.num_classes)
            chosen_deltas.append(gather_from_map(level_deltas, anchor, location, 4))
            chosen_anchors.append(anchors[start + location * per_location + anchor])
            start += locations * per_location
        boxes = decode_in_images(torch.cat(chosen_deltas, dim=1), torch.cat(chosen_anchors, dim=1), batch)
        return best_detections(
            boxes,
            torch.cat(scores, dim=1),
            torch.cat(labels, dim=1),
            self.nms_thresh,
            self.score_thresh,
            self.detections_per_img,
        )


def _logit(probability: float) -> float:
    """Of a number somewhat smaller, so that no score above it gets lost in rounding; any number is taken."""
    smaller = probability * (1 - 1e-3)
    return math.log(smaller / (1 - smaller)) if 0 < smaller < 1 else -math.inf if smaller <= 0 else math.inf


def _tower(in_channels: int, out_channels: int, norm_layer: Norm | None, levels: int | None) -> nn.Module:
    """Convolutions and a predictor; with a number of levels, each has normalisation of its own."""
    if levels is None:
        return _Tower(in_channels, out_channels, norm_layer)
    if norm_layer is None:
        raise ValueError("RetinaNetHead: expected a norm_layer for norm_per_level, got None")
    return _TowerPerLevel(in_channels, out_channels, norm_layer, levels)


class _Tower(nn.Module):
    """Four convolutions and a predictor, shared by all levels."""

    def __init__(self, in_channels: int, out_channels: int, norm_layer: Norm | None) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(conv_block(in_channels, in_channels, norm_layer) for _ in range(4)))
        self.predictor = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        initialise_normal(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.predictor(self.conv(x)) for x in features]


class _TowerPerLevel(nn.Module):
    """The like, each level with normalisation of its own (https://arxiv.org/abs/1904.07392, section 4.1)."""

    def __init__(self, in_channels: int, out_channels: int, norm_layer: Norm, levels: int) -> None:
        super().__init__()
        self.conv = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1, bias=False) for _ in range(4)
        )
        self.norms = nn.ModuleList(nn.ModuleList(norm_layer(in_channels) for _ in self.conv) for _ in range(levels))
        self.predictor = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        initialise_normal(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        predictions = []
        for x, norms in zip(features, self.norms, strict=True):
            for conv, norm in zip(self.conv, cast(nn.ModuleList, norms), strict=True):
                x = norm(conv(x)).relu_()
            predictions.append(self.predictor(x))
        return predictions
