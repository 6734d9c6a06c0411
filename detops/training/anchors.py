"""Anchors fitted to a data set: the sizes of its boxes, as the network sees them, clustered and dealt to the levels."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._errors import UserError
from ..detectors import Detector
from ..heads.anchors import AnchorGenerator, DefaultBoxes
from ..images import ImageTransform
from ..ops import best_possible_recall, kmeans_anchors


class FittedAnchors(NamedTuple):
    """Anchors for a detector's builder, and what they are worth.

    Attributes:
        sizes: The option ``anchor_sizes``: of each level its anchors' widths and heights; pixels, or for SSD shares
            of the image's.
        recall_before: Share of the boxes that some anchor can be trained to become, of the detector's own anchors.
        recall: Of the fitted ones.
    """

    sizes: list[list[list[float]]]
    recall_before: float
    recall: float


def fit(model: Detector, box_sizes: Tensor, seed: int = 0) -> FittedAnchors:
    """Fits anchors to boxes: as many as the detector has, dealt to its levels by ascending area.

    Args:
        model: A detector with anchors.
        box_sizes: Of each box its width and height, and the width and height of its image, (M, 4), in pixels.
        seed: Of the search.

    Raises:
        UserError: If the detector has no anchors, or there are fewer boxes than anchors.
    """
    anchors = next((m for m in model.modules() if isinstance(m, AnchorGenerator | DefaultBoxes)), None)
    if anchors is None:
        raise UserError("train: --auto-anchors: expected a detector with anchors, got one that has none")
    total = sum(anchors.per_location)
    if len(box_sizes) < total:
        raise UserError(
            f"train: --auto-anchors: expected at least {total} boxes to fit {total} anchors to, got {len(box_sizes)}"
        )
    boxes = scale_to_network(box_sizes, model.transform)
    shares = isinstance(anchors, DefaultBoxes)
    unit = torch.tensor(model.transform.fixed_size).flip(0) if shares and model.transform.fixed_size else torch.ones(2)
    fitted = kmeans_anchors(boxes, total, seed=seed)
    levels = (fitted / unit).split(anchors.per_location)
    return FittedAnchors(
        [level.tolist() for level in levels],
        best_possible_recall(boxes, torch.cat(anchors.sizes) * unit),
        best_possible_recall(boxes, fitted),
    )


def scale_to_network(box_sizes: Tensor, transform: ImageTransform) -> Tensor:
    """Widths and heights of boxes, (M, 2), after their images were resized for the network."""
    boxes, images = box_sizes.float().split(2, dim=1)
    if transform.fixed_size is not None:
        return boxes * torch.tensor(transform.fixed_size).flip(0) / images
    by_shorter = transform.min_size[-1] / images.amin(dim=1)
    by_longer = transform.max_size / images.amax(dim=1)
    return boxes * torch.minimum(by_shorter, by_longer)[:, None]
