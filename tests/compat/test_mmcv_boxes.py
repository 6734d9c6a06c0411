"""Overlaps and suppression of mmcv._ext, called as mmcv/ops calls them; mmcv itself is not needed."""

import math

import pytest
import torch
from rotated import exact_pairs, random_rotated
from torch import Tensor
from torch.testing import assert_close

from detops.compat.mmcv import _ext as ext


def boxes_with_scores(n: int) -> tuple[Tensor, Tensor]:
    """Whole numbers, so that overlaps are exact; and of no two the same score."""
    corner = torch.randint(0, 30, (n, 2))
    boxes = torch.cat([corner, corner + torch.randint(1, 20, (n, 2))], dim=1).float()
    return boxes, torch.randperm(n).float() / n


def overlap(a: list[float], b: list[float], offset: int) -> float:
    """In float32, rounded where mmcv rounds."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset) for i in (0, 1))
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return torch.tensor(width * height / (sum(areas) - width * height)).item()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_nms(place: torch.device, offset: int, threshold: float) -> None:
    boxes, scores = boxes_with_scores(120)
    keep: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        limit = torch.tensor(threshold).item()
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= limit for j in keep):
            keep.append(i)
    found = ext.nms(boxes.to(place), scores.to(place), iou_threshold=threshold, offset=offset)
    assert found.dtype == torch.int64 and found.tolist() == keep
    assert 3 < len(keep) < 120


def test_nms_keeps_a_box_at_the_threshold(place: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]], device=place)  # IoU 0.6: as a float32 above the double 0.6
    scores = torch.tensor([0.9, 0.8], device=place)
    assert ext.nms(boxes, scores, iou_threshold=0.6, offset=0).tolist() == [0, 1]
    assert ext.nms(boxes, scores, iou_threshold=0.59, offset=0).tolist() == [0]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", [0, 1, 2])
def test_softnms(method: int, offset: int) -> None:
    boxes, scores = boxes_with_scores(60)
    left, expected = dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=lambda i: left[i])
        expected.append((best, left.pop(best)))
        for i in list(left):
            iou = overlap(boxes[best].tolist(), boxes[i].tolist(), offset)
            if method == 2:
                left[i] *= math.exp(-(iou**2) / 0.5)
            elif iou >= torch.tensor(0.3).item():
                left[i] *= 0 if method == 0 else 1 - iou
            if left[i] < 1e-3:
                del left[i]
    dets = torch.full((60, 5), math.nan)
    keep = ext.softnms(boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=1e-3, method=method, offset=offset)
    assert keep.tolist() == [i for i, _ in expected]
    assert torch.equal(dets[: len(keep), :4], boxes[keep])
    assert_close(dets[: len(keep), 4], torch.tensor([score for _, score in expected]))


def test_nms_match() -> None:
    boxes, scores = boxes_with_scores(80)
    left, groups = scores.argsort(descending=True).tolist(), []
    while left:
        ious = [overlap(boxes[left[0]].tolist(), boxes[i].tolist(), 0) for i in left]
        groups.append([i for i, iou in zip(left, ious, strict=True) if iou >= 0.5 or i == left[0]])
        left = [i for i in left if i not in groups[-1]]
    assert ext.nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold=0.5) == groups
    assert any(len(group) > 1 for group in groups)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(place: torch.device, mode: int, aligned: bool, offset: int) -> None:
    first, second = boxes_with_scores(12)[0], boxes_with_scores(12)[0]
    found = torch.full((12,) if aligned else (12, 12), math.nan, device=place)
    ext.bbox_overlaps(first.to(place), second.to(place), found, mode=mode, aligned=aligned, offset=offset)
    for i in range(12):
        for j in [i] if aligned else range(12):
            a, b = first[i].tolist(), second[j].tolist()
            iou = overlap(a, b, offset)
            sizes = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
            shared = iou / (1 + iou) * sum(sizes)
            assert found[i if aligned else (i, j)].item() == pytest.approx(iou if mode == 0 else shared / sizes[0])


def test_bbox_overlaps_of_nothing_is_zero(place: torch.device) -> None:
    points = torch.tensor([[3.0, 3, 3, 3]], device=place)
    for mode in (0, 1):
        for aligned in (False, True):
            found = torch.full((1,) if aligned else (1, 1), math.nan, device=place)
            ext.bbox_overlaps(points, points, found, mode=mode, aligned=aligned, offset=0)
            assert found.item() == 0


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_box_iou_rotated(place: torch.device, mode: str) -> None:
    first, second = random_rotated(20, 30, 20), random_rotated(20, 30, 20)
    expected = exact_pairs(first, second, mode)
    flag = ["iou", "iof"].index(mode)
    aligned = first.new_zeros(20, device=place)
    ext.box_iou_rotated(first.to(place), second.to(place), aligned, mode_flag=flag, aligned=True)
    assert_close(aligned.cpu().double(), expected, atol=1e-5, rtol=0)
    pairs = first.new_zeros(400, device=place)  # flat, as mmcv has it
    ext.box_iou_rotated(first.to(place), second.to(place), pairs, mode_flag=flag, aligned=False)
    assert torch.equal(pairs.view(20, 20).diagonal(), aligned)


def test_nms_rotated_with_labels(place: torch.device) -> None:
    dets = torch.tensor([[10.0, 10, 8, 4, 0.5], [10, 10, 8, 4, 0.5], [10, 10, 8, 4, 0.55]], device=place)
    scores, labels = torch.tensor([0.5, 0.9, 0.7], device=place), torch.tensor([0, 1, 1], device=place)
    order, with_labels = scores.argsort(descending=True), torch.cat([dets, labels[:, None]], dim=1)
    none = scores.new_empty(0, dtype=torch.int)
    assert ext.nms_rotated(dets, scores, order, dets[order], none, 0.5, False).tolist() == [1]
    assert ext.nms_rotated(with_labels, scores, order, with_labels[order], labels, 0.5, True).tolist() == [1, 0]
