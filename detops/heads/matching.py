"""Which ground truth each prediction answers for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..images import Target
from ..ops import match_boxes

BACKGROUND, BETWEEN_THRESHOLDS = -1, -2  # what match_boxes calls a box without an object


def match_anchors(
    anchors: Tensor, targets: Sequence[Target], high_threshold: float, low_threshold: float
) -> list[Tensor]:
    """Of each image the object that each anchor answers for, (N,); every object gets its best anchors."""
    boxes = [target["boxes"] for target in targets]
    return match_boxes(boxes, anchors, high_threshold, low_threshold, allow_low_quality_matches=True)[0]


def match_default_boxes(anchors: Tensor, targets: Sequence[Target], threshold: float) -> list[Tensor]:
    """SSD's matching (https://arxiv.org/abs/1512.02325, section 2.2): each object has its best anchor for itself."""
    boxes = [target["boxes"] for target in targets]
    matches, _ = match_boxes(boxes, anchors, threshold, threshold)
    for match, objects in zip(matches, boxes, strict=True):
        best, _ = match_boxes(anchors, objects, 0.0, 0.0)
        numbers = torch.arange(len(objects), device=anchors.device)
        match.scatter_reduce_(0, best.clamp(min=0), numbers, "amax", include_self=False)
    return matches
