"""Region Proposal Network: which anchors hold an object of any class, and where exactly."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import ImageBatch, Target
from ..ops import encode_boxes, nms_padded, smooth_l1_loss
from .anchors import AnchorGenerator
from .layers import DeltaLoss, all_rows, conv_block, decode_in_images, gather_rows, initialise_normal, rows
from .matching import BACKGROUND, match_anchors
from .sampling import sample_balanced

_MIN_SIZE = 1e-3  # pixels; smaller proposals are dropped
DELTA_LOSS: DeltaLoss = partial(smooth_l1_loss, beta=1 / 9, reduction="sum")


class Predictions(NamedTuple):
    """Of each level."""

    objectness: list[Tensor]  # (B, A, H, W)
    deltas: list[Tensor]  # (B, A * 4, H, W)


class Proposals(NamedTuple):
    """The best proposals of each image in order of objectness; a fixed number P, padded with zeros."""

    boxes: Tensor  # (B, P, 4), in pixels of the batch, without gradient
    number: Tensor  # (B,) int64, how many there are


class RPN(nn.Module):
    """Region Proposal Network of "Faster R-CNN" (https://arxiv.org/abs/1506.01497), section 3.1.

    Args:
        in_channels: Of every level.
        anchors: One set for each level, as many in each.
        conv_depth: 3×3 convolutions before the two predictors.
        fg_iou_thresh: Least overlap of an anchor that is an object.
        bg_iou_thresh: Overlap below which it is background.
        batch_size_per_image: Anchors of an image that the losses see.
        positive_fraction: Share of objects among them at most.
        pre_nms_top_n: Proposals of each level before non-maximum suppression: in training, in evaluation.
        post_nms_top_n: Of each image after it: in training, in evaluation.
        nms_thresh: Overlap above which the lower proposal of a level is dropped.
        score_thresh: Least objectness of a proposal, as a probability.
        negatives_per_positive: How many anchors without an object the losses see at most for each with one; None: any.
        delta_loss: Of the deltas predicted and wanted; their sum.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: AnchorGenerator,
        conv_depth: int = 1,
        *,
        fg_iou_thresh: float = 0.7,
        bg_iou_thresh: float = 0.3,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_top_n: tuple[int, int] = (2000, 1000),
        post_nms_top_n: tuple[int, int] = (2000, 1000),
        nms_thresh: float = 0.7,
        score_thresh: float = 0.0,
        negatives_per_positive: float | None = None,
        delta_loss: DeltaLoss = DELTA_LOSS,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.fg_iou_thresh, self.bg_iou_thresh = fg_iou_thresh, bg_iou_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.pre_nms_top_n, self.post_nms_top_n = pre_nms_top_n, post_nms_top_n
        self.nms_thresh, self.score_thresh = nms_thresh, score_thresh
        self.negatives_per_positive, self.delta_loss = negatives_per_positive, delta_loss
        per_location = anchors.per_location[0]
        self.conv = nn.Sequential(*(conv_block(in_channels, in_channels) for _ in range(conv_depth)))
        self.objectness = nn.Conv2d(in_channels, per_location, kernel_size=1)
        self.deltas = nn.Conv2d(in_channels, per_location * 4, kernel_size=1)
        initialise_normal(self)

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        hidden = [self.conv(feature) for feature in features]
        return Predictions([self.objectness(h) for h in hidden], [self.deltas(h) for h in hidden])

    @torch.no_grad()
    def propose(self, predictions: Predictions, anchors: Tensor, batch: ImageBatch) -> Proposals:
        """The proposals of each image; they pass no gradient (section 3.2, approximate joint training)."""
        pre, post = (n[0] if self.training else n[1] for n in (self.pre_nms_top_n, self.post_nms_top_n))
        scores, deltas, places, levels = [], [], [], []
        start = 0
        for level, (level_scores, level_deltas) in enumerate(zip(*predictions, strict=True)):
            flat = rows(level_scores, 1)[..., 0]
            best, place = flat.topk(min(pre, flat.shape[1]))
            scores.append(best.sigmoid())
            deltas.append(gather_rows(rows(level_deltas, 4), place))
            places.append(start + place)
            levels.append(torch.full_like(place, level))
            start += flat.shape[1]
        boxes = decode_in_images(torch.cat(deltas, dim=1), anchors[torch.cat(places, dim=1)], batch)
        good = ((boxes[..., 2:] - boxes[..., :2]) >= _MIN_SIZE).all(dim=-1)
        objectness = torch.cat(scores, dim=1)
        objectness = objectness.masked_fill(~(good & (objectness >= self.score_thresh)), -torch.inf)
        keep, count = nms_padded(boxes, objectness, self.nms_thresh, post, torch.cat(levels, dim=1), -torch.inf)
        return Proposals(gather_rows(boxes, keep.clamp(min=0)).masked_fill((keep < 0)[..., None], 0), count)

    def losses(self, predictions: Predictions, anchors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses "loss_objectness" and "loss_rpn_box_reg" of a mini-batch of anchors of each image."""
        matches = match_anchors(anchors, targets, self.fg_iou_thresh, self.bg_iou_thresh)
        positives, negatives, boxes, starts = [], [], [], []
        for i, (match, target) in enumerate(zip(matches, targets, strict=True)):
            positive, negative = sample_balanced(
                match >= 0,
                match == BACKGROUND,
                self.batch_size_per_image,
                self.positive_fraction,
                self.negatives_per_positive,
            )
            boxes.append(target["boxes"][match[positive]])
            starts.append(anchors[positive])
            positives.append(positive + i * len(anchors))
            negatives.append(negative + i * len(anchors))
        positive, sampled = torch.cat(positives), torch.cat([*positives, *negatives])

        objectness = all_rows(predictions.objectness, 1).flatten()[sampled]
        labels = torch.zeros_like(objectness)
        labels[: len(positive)] = 1
        deltas = all_rows(predictions.deltas, 4).flatten(0, 1)[positive]
        wanted = encode_boxes(torch.cat(boxes), torch.cat(starts))
        return {
            "loss_objectness": F.binary_cross_entropy_with_logits(objectness, labels),
            "loss_rpn_box_reg": self.delta_loss(deltas, wanted) / max(1, len(sampled)),
        }
