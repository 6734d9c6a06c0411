"""Which ground truth each box answers for."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from . import _checks


@overload
def match_boxes(
    gt_boxes: Tensor,
    boxes: Tensor,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> tuple[Tensor, Tensor]: ...
@overload
def match_boxes(
    gt_boxes: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> tuple[list[Tensor], list[Tensor]]: ...
def match_boxes(
    gt_boxes: Tensor | Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]:
    """Assign to each box, an anchor or a proposal, the ground truth that it overlaps most.

    The rule of Faster R-CNN (https://arxiv.org/abs/1506.01497, section 3.1.2) as in torchvision's ``Matcher``, in one
    pass that never stores the matrix of overlaps. Many images go through one call when ``gt_boxes`` is a list.

    Args:
        gt_boxes: Ground truth, corners in pixels, (G, 4), any real dtype; or a list of these, one per image.
        boxes: (N, 4). With a list ``gt_boxes`` either shared by all images, or a list of one (N, 4) per image.
        high_threshold: Least IoU of a match.
        low_threshold: IoU below which a box is background; at most ``high_threshold``.
        allow_low_quality_matches: Also match, whatever the thresholds, every box that ties for the best IoU of some
            ground truth: each such box to the ground truth that it overlaps most itself. (A ground truth that no box
            overlaps has its best IoU, 0, with all of them.)

    Returns:
        ``matches`` (N,) int64: the index of the ground truth, -1 for background, -2 between the thresholds. Of equal
        overlaps the lowest index; without ground truth all are -1.
        ``ious`` (N,): each box's best IoU; float64 if one of the inputs is, else float32. 0 without ground truth. An
        IoU that is not a number counts as 0. Thresholds are compared in this dtype. Not differentiable.
        Given lists, lists of these, one entry per image (views of one allocation).

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``low_threshold`` is above ``high_threshold`` or one of them is NaN, or if the lists differ in
            length.
    """
    if not low_threshold <= high_threshold:
        raise ValueError(
            f"match_boxes: expected low_threshold at most high_threshold, got {low_threshold} and {high_threshold}"
        )
    if isinstance(gt_boxes, Tensor):
        if not isinstance(boxes, Tensor):
            raise TypeError("match_boxes: expected boxes to be a tensor, as gt_boxes is, got a sequence")
        return torch.ops.detops.match_boxes.default(
            _detached(gt_boxes), _detached(boxes), high_threshold, low_threshold, allow_low_quality_matches
        )
    if not isinstance(boxes, Tensor) and len(boxes) != len(gt_boxes):
        raise ValueError(f"match_boxes: expected boxes of {len(gt_boxes)} images, got {len(boxes)}")
    if not gt_boxes:
        return [], []
    targets = [_detached(t) for t in gt_boxes]
    places = [_detached(boxes)] if isinstance(boxes, Tensor) else [_detached(t) for t in boxes]
    matches, ious = torch.ops.detops.match_boxes_of_images.default(
        targets, places, high_threshold, low_threshold, allow_low_quality_matches
    )
    sizes = [t.shape[0] for t in (places * len(targets) if isinstance(boxes, Tensor) else places)]
    return list(matches.split(sizes)), list(ious.split(sizes))


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def _check(gt_name: str, gt_boxes: Tensor, name: str, boxes: Tensor) -> None:
    _checks.check_real("match_boxes", gt_name, gt_boxes)
    _checks.check_real("match_boxes", name, boxes)
    _checks.check_shape("match_boxes", gt_name, gt_boxes, (None, 4))
    _checks.check_shape("match_boxes", name, boxes, (None, 4))
    _checks.check_same_device("match_boxes", gt_name, gt_boxes, name, boxes)


def _results(tensors: Sequence[Tensor], size: int) -> tuple[Tensor, Tensor]:
    wide = any(t.dtype == torch.float64 for t in tensors)
    return (
        tensors[0].new_empty(size, dtype=torch.int64),
        tensors[0].new_empty(size, dtype=torch.float64 if wide else torch.float32),
    )


@torch.library.register_fake("detops::match_boxes")
def _(
    gt_boxes: Tensor, boxes: Tensor, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool
) -> tuple[Tensor, Tensor]:
    _check("gt_boxes", gt_boxes, "boxes", boxes)
    return _results((gt_boxes, boxes), boxes.shape[0])


@torch.library.register_fake("detops::match_boxes_of_images")
def _(
    gt_boxes: list[Tensor],
    boxes: list[Tensor],
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
) -> tuple[Tensor, Tensor]:
    images = len(gt_boxes)
    if images == 0:
        _checks.fail("match_boxes", "expected gt_boxes of at least one image, got none")
    if len(boxes) not in (1, images):
        _checks.fail("match_boxes", f"expected boxes of 1 or {images} images, got {len(boxes)}")
    shared = len(boxes) == 1
    for i, targets in enumerate(gt_boxes):
        name, own = ("boxes", boxes[0]) if shared else (f"boxes[{i}]", boxes[i])
        _check(f"gt_boxes[{i}]", targets, name, own)
        _checks.check_same_device("match_boxes", "boxes", boxes[0], f"gt_boxes[{i}]", targets)
    size = images * boxes[0].shape[0] if shared else sum(t.shape[0] for t in boxes)
    return _results([*gt_boxes, *boxes], size)
