"""Soft-NMS against a plain PyTorch formulation: torchvision has none."""

from collections.abc import Iterator

import torch
from torch import Tensor

import detops

from . import workloads
from .common import Case

OPERATORS = ("soft_nms", "soft_nms_padded")
IOU_THRESHOLD, SIGMA, MIN_SCORE = 0.3, 0.5, 1e-3
METHODS = ("linear", "gaussian", "naive")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields clustered proposals by each method, disjoint ones and a batch."""
    for n in (10, 1000, 5000):
        boxes, scores = (t.to(device, dtype) for t in workloads.proposals_clustered(n))
        for method in METHODS:
            series = "" if method != "linear" else "clustered proposals, linear"
            yield single(f"{n:,} clustered, {method}", boxes, scores, method, n == 1000, series, n)
    boxes, scores = (t.to(device, dtype) for t in workloads.boxes_disjoint(5000))
    yield single("5,000 disjoint, linear", boxes, scores, "linear")
    images = [workloads.proposals_clustered(1000, seed=seed) for seed in range(8)]
    batch, of_batch = (torch.stack(t).to(device, dtype) for t in zip(*images, strict=True))
    yield Case(
        "soft_nms_padded",
        "8 x 1,000 clustered, linear, first 100",
        run={
            "detops": lambda: detops.ops.soft_nms_padded(batch, of_batch, 100)[0][..., 4],
            "pytorch": lambda: torch.stack(
                [plain(b, s, "linear", 100)[0][:, 4] for b, s in zip(batch, of_batch, strict=True)]
            ),
        },
        bytes=batch.nbytes + of_batch.nbytes,
    )


def single(
    name: str, boxes: Tensor, scores: Tensor, method: str, quick: bool = False, series: str = "", size: int = 0
) -> Case:
    """Both sides must give the same scores."""
    return Case(
        "soft_nms",
        name,
        run={
            "detops": lambda: detops.ops.soft_nms(boxes, scores, IOU_THRESHOLD, SIGMA, MIN_SCORE, method)[0][:, 4],
            "pytorch": lambda: plain(boxes, scores, method, len(boxes))[0][:, 4],
        },
        bytes=boxes.nbytes + scores.nbytes,
        quick=quick and method == "linear",
        series=series,
        size=size,
    )


def plain(boxes: Tensor, scores: Tensor, method: str, limit: int) -> tuple[Tensor, Tensor]:
    """A step a box, each on all that are left."""
    wide = torch.promote_types(boxes.dtype, torch.float32)
    boxes, left = boxes.to(wide), scores.to(wide)
    indices = torch.arange(len(boxes), device=boxes.device)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    dets: list[Tensor] = []
    keep: list[Tensor] = []
    while len(left) > 0 and len(keep) < limit:
        best = left.argmax()
        dets.append(torch.cat([boxes[best], left[best, None]]))
        keep.append(indices[best])
        width, height = (torch.min(boxes[:, 2:], boxes[best, 2:]) - torch.max(boxes[:, :2], boxes[best, :2])).T.clamp(0)
        shared = width * height
        iou = shared / (areas + areas[best] - shared)
        if method == "gaussian":
            left = left * torch.exp(-(iou**2) / SIGMA)
        else:
            left = torch.where(iou >= IOU_THRESHOLD, left * (1 - iou) if method == "linear" else 0 * left, left)
        stays = left >= MIN_SCORE
        stays[best] = False
        boxes, left, areas, indices = boxes[stays], left[stays], areas[stays], indices[stays]
    return torch.stack(dets), torch.stack(keep)
