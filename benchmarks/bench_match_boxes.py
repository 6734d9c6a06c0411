"""Matching boxes to ground truths against torchvision's matrix of overlaps and Matcher."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import Matcher

import detops

from . import workloads
from .common import Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields anchors with few, many and no overlapping ground truths, then proposals, a batch and the series."""
    fpn, ssd, proposals = workloads.anchors_fpn(), workloads.anchors_ssd(), workloads.proposals_clustered(2000)[0]
    for name, boxes, count, quick in (
        ("FPN 242,991 anchors x 20", fpn, 20, False),
        ("FPN 242,991 anchors x 100", fpn, 100, False),
        ("SSD 8,732 boxes x 50", ssd, 50, True),
        ("2,000 proposals x 20", proposals, 20, True),
        ("10 boxes x 3", ssd[:10], 3, False),
    ):
        for low_quality in (False, True):
            gt_boxes = workloads.ground_truth(count, seed=2)
            suffix = ", low quality" if low_quality else ""
            yield one_image(
                name + suffix, gt_boxes.to(device, dtype), boxes.to(device, dtype), low_quality, quick and low_quality
            )
    outside = torch.cat([workloads.ground_truth(20, seed=2), torch.tensor([[4000.0, 4000, 4100, 4100]])])
    yield one_image(
        "FPN x 21, one overlapped by nothing, low quality", outside.to(device, dtype), fpn.to(device, dtype), True
    )
    yield batch(
        [workloads.ground_truth(10 + 10 * i, seed=i).to(device, dtype) for i in range(8)], ssd.to(device, dtype)
    )
    for count in (10, 30, 300):
        gt_boxes = workloads.ground_truth(count, seed=2).to(device, dtype)
        yield one_image(
            f"SSD x {count}", gt_boxes, ssd.to(device, dtype), True, series="SSD, ground truths", size=count
        )


def one_image(
    name: str,
    gt_boxes: Tensor,
    boxes: Tensor,
    low_quality: bool,
    quick: bool = False,
    series: str = "",
    size: int = 0,
) -> Case:
    """RPN's thresholds. Left out of half precision: there torchvision rounds the overlaps as well."""
    matcher = Matcher(0.7, 0.3, low_quality)

    def theirs() -> tuple[Tensor, Tensor]:
        table = torchvision.ops.box_iou(gt_boxes, boxes)
        return matcher(table), table.amax(0)

    peers = {"torchvision": theirs} if boxes.itemsize >= 4 else {}
    return Case(
        "match_boxes",
        name,
        run={"detops": lambda: detops.ops.match_boxes(gt_boxes, boxes, 0.7, 0.3, low_quality), **peers},
        bytes=gt_boxes.nbytes + boxes.nbytes + len(boxes) * (8 + max(boxes.itemsize, 4)),
        quick=quick,
        note="" if peers else "torchvision's overlaps are of half precision",
        series=series,
        size=size,
    )


def batch(gt_boxes: list[Tensor], boxes: Tensor) -> Case:
    """Several images with the same boxes: one call against one per image."""
    matcher = Matcher(0.5, 0.5, True)

    def theirs() -> tuple[list[Tensor], list[Tensor]]:
        tables = [torchvision.ops.box_iou(targets, boxes) for targets in gt_boxes]
        return [matcher(table) for table in tables], [table.amax(0) for table in tables]

    peers = {"torchvision": theirs} if boxes.itemsize >= 4 else {}
    return Case(
        "match_boxes",
        f"SSD 8,732 boxes, {len(gt_boxes)} images, low quality",
        run={"detops": lambda: detops.ops.match_boxes(gt_boxes, boxes, 0.5, 0.5, True), **peers},
        bytes=boxes.nbytes + len(gt_boxes) * len(boxes) * (8 + max(boxes.itemsize, 4)),
    )
