"""Boxes, straight and rotated: overlaps and non-maximum suppression."""

import ctypes

import torch
from torch import Tensor

from ... import ops


@torch.no_grad()
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Overlap over union (mode 0) or over the first's area (1); all pairs, or row by row if aligned. 0 without area."""
    first, second = _to_edges(bboxes1, offset), _to_edges(bboxes2, offset)
    if mode == 0 and not aligned:
        ious.copy_(ops.box_iou(first, second))
        return
    if not aligned:
        first = first[:, None]
    shared = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    overlap = shared.clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second))
    whole = area1 if mode == 1 else area1 + area2 - overlap
    ious.copy_(torch.where(whole == 0, 0.0, overlap / whole))


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    return ops.nms(_to_edges(boxes, offset), scores, single(iou_threshold))


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices (K,) of the boxes kept; the first K rows of ``dets`` (N, 5) are these boxes and their lowered scores."""
    numbers = (single(iou_threshold), single(sigma), single(min_score))
    lowered, keep = torch.ops.detops.soft_nms.default(_to_edges(boxes, offset), scores, *numbers, method)
    dets[: len(keep), :4] = boxes[keep]
    dets[: len(keep), 4] = lowered[:, 4]
    return keep


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Boxes and scores, (N, 5), in groups: a box that is kept, then those that it drops; here at the threshold too."""
    threshold = single(iou_threshold)
    left = dets[:, 4].sort(stable=True, descending=True).indices
    groups = []
    while len(left) > 0:
        overlaps = ops.box_iou(dets[left[:1], :4], dets[left, :4])[0]
        dropped = overlaps >= threshold
        dropped[0] = True
        groups.append(left[dropped].tolist())
        left = left[~dropped]
    return groups


@torch.no_grad()
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    mode = "iof" if mode_flag == 1 else "iou"
    ious.copy_(ops.box_iou_rotated(boxes1, boxes2, mode, aligned).reshape(ious.shape))


@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Indices kept of (N, 5), or (N, 6) with the label at the end; at the threshold itself nothing is dropped."""
    return ops.nms_rotated(dets[:, :5], scores, single(iou_threshold), labels if multi_label else None)[1]


def single(number: float) -> float:
    """The nearest float32: mmcv's functions take thresholds as such, which decides ties with a float32 overlap."""
    return ctypes.c_float(number).value


def _to_edges(boxes: Tensor, offset: int) -> Tensor:
    """Boxes whose sides are ``x2 - x1 + offset`` long as boxes whose sides are ``x2 - x1``."""
    return boxes if offset == 0 else torch.cat([boxes[..., :2], boxes[..., 2:] + offset], dim=-1)
