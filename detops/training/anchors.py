"""Anchors fitted to a data set: the sizes of its boxes, as the network sees them, clustered for each level."""

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
    """Fits anchors to boxes, as many at each level as the detector has.

    A level keeps the scale of the detector's own anchors, and with it the boxes that its stride can tell apart: each
    box counts for the level nearest in scale, sizes are clustered relative to that, and all levels get the clusters.

    Args:
        model: A detector with anchors.
        box_sizes: Of each box its width and height, and the width and height of its image, (M, 4), in pixels.
        seed: Of the search.

    Raises:
        UserError: If the detector has no anchors, or there are fewer boxes than a level has anchors.
    """
    anchors = next((m for m in model.modules() if isinstance(m, AnchorGenerator | DefaultBoxes)), None)
    if anchors is None:
        raise UserError("train: --auto-anchors: expected a detector with anchors, got one that has none")
    counts = anchors.per_location
    if len(box_sizes) < max(counts):
        raise UserError(
            f"train: --auto-anchors: expected at least {max(counts)} boxes, one for each anchor of a level,"
            f" got {len(box_sizes)}"
        )
    unit = torch.ones(2)
    if isinstance(anchors, DefaultBoxes) and model.transform.fixed_size:
        unit = torch.tensor(model.transform.fixed_size).flip(0).float()
    own = [level * unit for level in anchors.sizes]
    boxes = scale_to_network(box_sizes, model.transform)

    scales = torch.stack([_side(level).log().mean().exp() for level in own])
    level = (_side(boxes)[:, None] / scales).log().abs().argmin(dim=1)
    relative = boxes / scales[level][:, None]
    clusters = {count: kmeans_anchors(relative, count, seed=seed) for count in set(counts)}
    fitted = [clusters[count] * scale for count, scale in zip(counts, scales, strict=True)]
    return FittedAnchors(
        [(of_level / unit).tolist() for of_level in fitted],
        best_possible_recall(boxes, torch.cat(own)),
        best_possible_recall(boxes, torch.cat(fitted)),
    )


def _side(sizes: Tensor) -> Tensor:
    """Of squares as large, (M,)."""
    return sizes.prod(dim=1).sqrt()


def scale_to_network(box_sizes: Tensor, transform: ImageTransform) -> Tensor:
    """Widths and heights of boxes, (M, 2), after their images were resized for the network."""
    boxes, images = box_sizes.float().split(2, dim=1)
    if transform.fixed_size is not None:
        return boxes * torch.tensor(transform.fixed_size).flip(0) / images
    by_shorter = transform.min_size[-1] / images.amin(dim=1)
    by_longer = transform.max_size / images.amax(dim=1)
    return boxes * torch.minimum(by_shorter, by_longer)[:, None]
