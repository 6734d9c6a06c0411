"""Anchors from box sizes against k-means and evolution in plain PyTorch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import detops

from . import workloads
from .common import Case

OPERATORS = ("kmeans_anchors", "best_possible_recall")


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields a data set of COCO's size and smaller ones; on the CPU, once, whatever the dtype."""
    if device.type != "cpu" or dtype != torch.float32:
        return
    for count, quick in ((1_000, True), (100_000, False), (1_000_000, False)):
        boxes = workloads.boxes_log_uniform(count, aspect=4)
        sizes = boxes[:, 2:] - boxes[:, :2]
        yield recall_case(sizes, quick)
        yield anchors_case(sizes, quick)


def recall_case(sizes: Tensor, quick: bool) -> Case:
    """Nine of the sizes as anchors."""
    anchors = sizes[:9].clone()

    def agree(ours: float, theirs: float) -> None:
        np.testing.assert_allclose(ours, theirs, atol=2e-6)

    return Case(
        "best_possible_recall",
        f"{len(sizes):,} sizes, 9 anchors",
        run={
            "detops": lambda: detops.ops.best_possible_recall(sizes, anchors),
            "pytorch": lambda: float((best_ratio(sizes, anchors) > 0.25).double().mean()),
        },
        bytes=sizes.nbytes,
        check=agree,
        quick=quick,
    )


def anchors_case(sizes: Tensor, quick: bool, generations: int = 20) -> Case:
    """Both sides begin at random: each is an answer if it is about as fit as the other."""

    def no_worse(ours: Tensor, theirs: Tensor) -> None:
        assert fitness(sizes, ours) > fitness(sizes, theirs) - 0.02

    return Case(
        "kmeans_anchors",
        f"{len(sizes):,} sizes, 9 anchors, {generations} generations",
        run={
            "detops": lambda: detops.ops.kmeans_anchors(sizes, 9, generations=generations),
            "pytorch": lambda: plain_anchors(sizes, 9, generations),
        },
        bytes=sizes.nbytes,
        check=no_worse,
        quick=quick,
    )


def best_ratio(sizes: Tensor, anchors: Tensor) -> Tensor:
    """Of each size, the smallest ratio of sides to its best anchor, (N,)."""
    ratios = sizes[:, None] / anchors
    return torch.minimum(ratios, 1 / ratios).amin(2).amax(1)


def fitness(sizes: Tensor, anchors: Tensor) -> float:
    best = best_ratio(sizes, anchors)
    return float((best * (best > 0.25)).double().mean())


def plain_anchors(sizes: Tensor, k: int, generations: int, iterations: int = 50) -> Tensor:
    """k-means on 1 - IoU from random sizes, then the same evolution."""
    random = workloads.generator(0)
    anchors = sizes[torch.randperm(len(sizes), generator=random)[:k]].clone()
    nearest = torch.empty(0)
    for _ in range(iterations):
        common = torch.minimum(sizes[:, None], anchors).prod(2)
        before, nearest = nearest, (common / (sizes.prod(1)[:, None] + anchors.prod(1) - common)).argmax(1)
        if torch.equal(before, nearest):
            break
        counts = torch.bincount(nearest, minlength=k)[:, None]
        anchors = torch.where(counts > 0, torch.zeros(k, 2).index_add_(0, nearest, sizes) / counts, anchors)
    best = fitness(sizes, anchors)
    for _ in range(generations):
        chosen = torch.rand(k, 2, generator=random) < 0.9
        change = 0.1 * torch.rand((), generator=random) * torch.randn(k, 2, generator=random)
        mutant = anchors * (1 + chosen * change).clamp(0.3, 3.0)
        if (value := fitness(sizes, mutant)) > best:
            anchors, best = mutant, value
    return anchors
