"""Non-maximum suppression against torchvision: clustered proposals, disjoint boxes, many classes, pyramid levels."""

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import Case

OPERATORS = ("nms", "batched_nms", "nms_padded")
INDEX_BYTES = 8


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields the proposals of one image at several sizes and thresholds, the worst cases, then many classes."""
    most = (100_000,) if device.type == "cuda" else ()  # torchvision takes half a minute of a CPU
    for n in (10, 100, 1000, 6000, 12_000, *most):
        boxes, scores = (t.to(device, dtype) for t in workloads.proposals_clustered(n))
        yield single(f"{n:,} clustered @0.7", boxes, scores, 0.7, quick=n == 1000, series="clustered proposals", size=n)
    for threshold in (0.3, 0.5):
        boxes, scores = (t.to(device, dtype) for t in workloads.proposals_clustered(12_000))
        yield single(f"12,000 clustered @{threshold}", boxes, scores, threshold)
    for n in (1000, 5000, 20_000, *most):
        boxes, scores = (t.to(device, dtype) for t in workloads.boxes_disjoint(n))
        yield single(f"{n:,} disjoint @0.7", boxes, scores, 0.7, quick=n == 5000, series="disjoint boxes", size=n)
    for classes, per_class, name in (
        (80, 12, "80 classes x 12"),
        (5, 1000, "5 levels x 1,000"),
        (80, 1000, "80 classes x 1,000"),
    ):
        boxes, scores, idxs = workloads.many_classes(classes, per_class)
        yield grouped(name, boxes.to(device, dtype), scores.to(device, dtype), idxs.to(device), quick=classes == 5)
    boxes, scores = (t.to(device, dtype) for t in workloads.proposals_clustered(6000))
    yield Case(
        "nms_padded",
        "6,000 clustered @0.7, first 1,000",
        run={
            "detops": lambda: detops.ops.nms_padded(boxes, scores, 0.7, 1000)[0],
            **peer(boxes, lambda: torchvision.ops.nms(boxes, scores, 0.7)[:1000]),
        },
        bytes=boxes.nbytes + scores.nbytes + 1000 * INDEX_BYTES,
        check=nearly_the_same(boxes),
        quick=True,
        note=missing(boxes),
    )


def single(
    name: str,
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    quick: bool = False,
    series: str = "",
    size: int = 0,
) -> Case:
    """One class; both sides must keep the same boxes in the same order, but for :func:`nearly_the_same` on a GPU."""
    return Case(
        "nms",
        name,
        run={
            "detops": lambda: detops.ops.nms(boxes, scores, threshold),
            **peer(boxes, lambda: torchvision.ops.nms(boxes, scores, threshold)),
        },
        bytes=boxes.nbytes + scores.nbytes + len(boxes) * INDEX_BYTES,
        check=nearly_the_same(boxes),
        quick=quick,
        series=series,
        size=size,
        note=missing(boxes),
    )


def grouped(name: str, boxes: Tensor, scores: Tensor, idxs: Tensor, quick: bool = False) -> Case:
    """Several classes; the order of equal scores is torchvision's to choose, so that the scores kept are compared."""
    note = missing(boxes) or ("torchvision's class offsets are infinite" if boxes.dtype == torch.float16 else "")
    return Case(
        "batched_nms",
        name,
        run={
            "detops": lambda: detops.ops.batched_nms(boxes, scores, idxs, 0.7),
            **({} if note else {"torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, idxs, 0.7)}),
        },
        bytes=boxes.nbytes + scores.nbytes + idxs.nbytes + len(boxes) * INDEX_BYTES,
        check=nearly_the_same(boxes) or regardless_of_equal_scores(scores),
        quick=quick,
        note=note,
    )


def peer(boxes: Tensor, run: Callable[[], Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Torchvision's side, where it has a kernel."""
    return {} if missing(boxes) else {"torchvision": run}


def missing(boxes: Tensor) -> str:
    """Why torchvision cannot run a case, or ""."""
    if boxes.device.type == "cpu" and boxes.dtype in (torch.float16, torch.bfloat16):
        return "torchvision has no half-precision CPU kernel"
    return "torchvision has no bfloat16 kernel" if boxes.dtype == torch.bfloat16 else ""


def nearly_the_same(boxes: Tensor) -> Callable[[Tensor, Tensor], None] | None:
    """On a GPU, a check that all but one box in 200 are the same, in half precision one in 20.

    Torchvision's CUDA kernel fuses multiplications and additions and subtracts in half precision, so that pairs next to
    the threshold, and what they drop, can differ.
    """
    share = 20 if boxes.dtype == torch.float16 else 200

    def check(actual: Tensor, expected: Tensor) -> None:
        differing = len(set(actual.tolist()) ^ set(expected.tolist()))
        assert differing * share <= len(expected), f"{differing} of {len(expected)} boxes differ"

    return check if boxes.is_cuda else None


def regardless_of_equal_scores(scores: Tensor) -> Callable[[Tensor, Tensor], None]:
    """A check that two results hold the same boxes, with the same scores at the same places."""

    def check(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual.sort().values, expected.sort().values)
        torch.testing.assert_close(scores[actual], scores[expected], rtol=0, atol=0)

    return check
