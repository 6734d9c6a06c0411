"""The second stage of the R-CNN family: regions of the features to classes and boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import Detections, ImageBatch, Target
from ..ops import decode_boxes, encode_boxes, match_boxes, multi_scale_roi_align, roi_pool
from . import Head
from .layers import DeltaLoss, Norm, best_detections, conv_block
from .rpn import DELTA_LOSS, RPN, Proposals
from .rpn import Predictions as RPNPredictions
from .sampling import Sampler, sample_at_random

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_MAX_STRIDE = 32  # of a level that regions are taken from
_MIN_SIZE = 1e-2  # pixels; smaller detections are dropped


class Predictions(NamedTuple):
    """Of the regions of all images."""

    logits: Tensor  # (K, C), the background is class 0
    deltas: Tensor  # (K, C, 4), or (K, C - 1, 4) without any for the background


class RoIHead(nn.Module):
    """Second stage of "Fast R-CNN" (https://arxiv.org/abs/1504.08083): pool each region, classify it, correct its box.

    Args:
        pool: Features and regions (K, 5) to (K, in_channels, S, S).
        box_head: What the pool gives to (K, ``representation``).
        representation: Size of a region's representation.
        num_classes: C with the background, which is label 0.
        score_thresh: Least score of a detection, exclusive.
        nms_thresh: Overlap above which the lower score of a class is dropped.
        detections_per_img: Most detections of an image.
        fg_iou_thresh: Least overlap of a region that is an object.
        bg_iou_thresh: Overlap below which it is background.
        batch_size_per_image: Regions of an image that the losses see.
        positive_fraction: Share of objects among them at most.
        box_weights: What the four deltas are multiplied by.
        sampler: Chooses those regions.
        delta_loss: Of the deltas predicted and wanted; their sum.
        background_deltas: Predict deltas for the background too, which nothing is done with, as torchvision's.
    """

    def __init__(
        self,
        pool: nn.Module,
        box_head: nn.Module,
        representation: int,
        num_classes: int,
        *,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        box_weights: Sequence[float] = BOX_WEIGHTS,
        sampler: Sampler = sample_at_random,
        delta_loss: DeltaLoss = DELTA_LOSS,
        background_deltas: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.score_thresh, self.nms_thresh, self.detections_per_img = score_thresh, nms_thresh, detections_per_img
        self.fg_iou_thresh, self.bg_iou_thresh = fg_iou_thresh, bg_iou_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.box_weights = tuple(box_weights)
        self.sampler, self.delta_loss = sampler, delta_loss
        self.first_with_deltas = 0 if background_deltas else 1
        self.pool = pool
        self.box_head = box_head
        self.classes = nn.Linear(representation, num_classes)
        self.deltas = nn.Linear(representation, (num_classes - self.first_with_deltas) * 4)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Predictions:
        """Predictions for the boxes (N_i, 4) of each image, one image after the other."""
        hidden = self.box_head(self.pool(features, _rois(boxes)))
        return Predictions(self.classes(hidden), self.deltas(hidden).unflatten(1, (-1, 4)))

    def losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Losses "loss_classifier" and "loss_box_reg" of a mini-batch of regions of each image."""
        boxes, labels, gt_boxes = self._sample(proposals, targets)
        logits, deltas = self(features, boxes)
        positive = (labels > 0).nonzero()[:, 0]
        wanted = encode_boxes(gt_boxes, torch.cat(boxes)[positive], self.box_weights)
        box_loss = self.delta_loss(deltas[positive, labels[positive] - self.first_with_deltas], wanted)
        total = max(1, len(labels))  # without proposals and objects there are none
        return {
            "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / total,
            "loss_box_reg": box_loss / total,
        }

    def _sample(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], Tensor, Tensor]:
        """A mini-batch of each image: the boxes of each; the labels of all; the objects that the positives are."""
        gt_boxes = [target["boxes"].to(p.dtype) for target, p in zip(targets, proposals, strict=True)]
        candidates = [torch.cat(pair) for pair in zip(proposals, gt_boxes, strict=True)]  # the objects are among them
        matches, ious = match_boxes(gt_boxes, candidates, self.fg_iou_thresh, self.bg_iou_thresh)
        boxes, labels, objects = [], [], []
        for candidate, gt, target, match, iou in zip(candidates, gt_boxes, targets, matches, ious, strict=True):
            positive, negative = self.sampler(match, iou, self.batch_size_per_image, self.positive_fraction)
            boxes.append(candidate[torch.cat([positive, negative])])
            labels.append(F.pad(target["labels"][match[positive]], (0, len(negative))))
            objects.append(gt[match[positive]])
        return boxes, torch.cat(labels), torch.cat(objects)

    def detect(self, features: Sequence[Tensor], batch: ImageBatch, proposals: Sequence[Tensor]) -> Detections:
        """The best detections of each image among its proposals (N_i, 4), labels from 1 to C - 1."""
        logits, deltas = self(features, proposals)
        scores, deltas = logits.softmax(dim=-1)[:, 1:], deltas[:, 1 - self.first_with_deltas :]
        counts = [len(boxes) for boxes in proposals]
        images = zip(scores.split(counts), deltas.split(counts), proposals, batch.sizes, strict=True)
        return Detections(*map(torch.cat, zip(*(self._detect_in(*image) for image in images), strict=True)))

    def _detect_in(self, scores: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int]) -> Detections:
        """Of one image: scores (N, C - 1), deltas (N, C - 1, 4), proposals (N, 4)."""
        boxes = decode_boxes(deltas.to(proposals.dtype), proposals[:, None], self.box_weights, image_size=size)
        good = ((boxes[..., 2:] - boxes[..., :2]) >= _MIN_SIZE).all(dim=-1)
        labels = torch.arange(1, self.num_classes, device=scores.device).expand(scores.shape)
        return best_detections(
            boxes.view(1, -1, 4),
            scores.masked_fill(~good, -torch.inf).view(1, -1),
            labels.reshape(1, -1),
            self.nms_thresh,
            self.score_thresh,
            self.detections_per_img,
        )


class TwoStageHead(Head):
    """Proposals and what becomes of them (https://arxiv.org/abs/1506.01497, figure 2).

    Args:
        rpn: First stage.
        roi: Second stage.
    """

    def __init__(self, rpn: RPN, roi: RoIHead) -> None:
        super().__init__()
        self.rpn, self.roi = rpn, roi
        self.labels = range(1, roi.num_classes)

    def losses(self, features: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of both stages."""
        anchors, predictions = self._first_stage(features, batch)
        proposals = self.rpn.propose(predictions, anchors, batch)
        second = self.roi.losses(features, _trimmed(proposals), targets)
        return second | self.rpn.losses(predictions, anchors, targets)

    def detect(self, features: Sequence[Tensor], batch: ImageBatch, fixed_size: bool = False) -> Detections:
        """The best detections of each image.

        Args:
            features: Of all levels.
            batch: Where they come from.
            fixed_size: Put padded proposals through the second stage too, so that no size depends on the data.
        """
        anchors, predictions = self._first_stage(features, batch)
        proposals = self.rpn.propose(predictions, anchors, batch)
        return self.roi.detect(features, batch, list(proposals.boxes) if fixed_size else _trimmed(proposals))

    def _first_stage(self, features: Sequence[Tensor], batch: ImageBatch) -> tuple[Tensor, RPNPredictions]:
        return self.rpn.anchors(features, batch.tensors.shape[-2:]), self.rpn(features)


class PyramidRoIAlign(nn.Module):
    """RoIAlign of each region on the level that fits its size (https://arxiv.org/abs/1612.03144, section 4.2).

    Args:
        strides: Of the levels; regions are taken from those up to 32.
        output_size: Bins along each side.
        sampling_ratio: Samples of each bin along each side; 0: one for each feature of a bin.
        aligned: Put features in the middle of their pixels; torchvision's detectors do not, mmdet's do.
    """

    def __init__(
        self, strides: Sequence[int], output_size: int = 7, sampling_ratio: int = 2, aligned: bool = False
    ) -> None:
        super().__init__()
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned
        self.scales = [1 / stride for stride in strides if stride <= _MAX_STRIDE] or [1 / strides[0]]

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        levels = list(features[: len(self.scales)])
        return multi_scale_roi_align(
            levels, rois, self.output_size, self.scales, self.sampling_ratio, aligned=self.aligned
        )


class SingleRoIPool(nn.Module):
    """RoI max pooling of every region on one level (https://arxiv.org/abs/1504.08083, section 2.1).

    Args:
        stride: Of the level.
        output_size: Bins along each side.
    """

    def __init__(self, stride: int, output_size: int = 7) -> None:
        super().__init__()
        self.stride, self.output_size = stride, output_size

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        return roi_pool(features[0], rois, self.output_size, 1 / self.stride)


def two_layers(in_features: int, representation: int) -> nn.Sequential:
    """Two fully connected layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_features, representation),
        nn.ReLU(inplace=True),
        nn.Linear(representation, representation),
        nn.ReLU(inplace=True),
    )


def convolutions(
    in_channels: int, output_size: int, channels: Sequence[int], representation: int, norm_layer: Norm
) -> nn.Sequential:
    """3×3 convolutions and one fully connected layer (https://arxiv.org/abs/1803.08494, section 5.2)."""
    blocks = [conv_block(a, b, norm_layer) for a, b in zip([in_channels, *channels[:-1]], channels, strict=True)]
    for module in nn.ModuleList(blocks).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    last = nn.Linear(channels[-1] * output_size**2, representation)
    return nn.Sequential(*blocks, nn.Flatten(), last, nn.ReLU(inplace=True))


def _trimmed(proposals: Proposals) -> list[Tensor]:
    """Of each image the proposals that there are: one wait for the device."""
    return [boxes[:n] for boxes, n in zip(proposals.boxes, proposals.number.tolist(), strict=True)]


def _rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes (N_i, 4) of each image as regions (K, 5), which begin with the image."""
    return torch.cat([F.pad(box, (1, 0), value=i) for i, box in enumerate(boxes)])
