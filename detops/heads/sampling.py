"""Which predictions the loss sees."""

from collections.abc import Callable

import torch
from torch import Tensor

from .matching import BACKGROUND

# Of an image's regions their objects and overlaps, how many to draw, share of positives at most: positives, negatives.
Sampler = Callable[[Tensor, Tensor, int, float], tuple[Tensor, Tensor]]


def sample_balanced(
    positive: Tensor,
    negative: Tensor,
    batch_size: int,
    positive_fraction: float,
    negatives_per_positive: float | None = None,
) -> tuple[Tensor, Tensor]:
    """A random mini-batch of positives and negatives of one image (https://arxiv.org/abs/1506.01497, section 3.1.3).

    Args:
        positive: (N,) bool.
        negative: (N,) bool.
        batch_size: How many to draw.
        positive_fraction: Share of positives at most; negatives fill up what these leave.
        negatives_per_positive: How many negatives there may be for each positive, and for none; None: any.

    Returns:
        Indices of the positives and of the negatives drawn, int64, ascending.
    """
    positives, negatives = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
    drawn = draw(positives, min(len(positives), int(batch_size * positive_fraction)))
    return drawn, draw(negatives, _negatives(len(negatives), batch_size, len(drawn), negatives_per_positive))


def sample_at_random(matches: Tensor, ious: Tensor, batch_size: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """:func:`sample_balanced` as a :data:`Sampler`: all positives alike, all negatives alike."""
    return sample_balanced(matches >= 0, matches == BACKGROUND, batch_size, positive_fraction)


def sample_libra(
    matches: Tensor, ious: Tensor, batch_size: int, positive_fraction: float, bins: int = 3
) -> tuple[Tensor, Tensor]:
    """As many positives of each object, as many negatives of each range of overlap.

    "Libra R-CNN" (https://arxiv.org/abs/1904.02701), section 3.1. As mmdet's, the ranges divide what lies between 0 and
    the largest overlap of any region, objects among the regions included, and what a range lacks is drawn from all.

    Args:
        matches: (N,) of :func:`detops.ops.match_boxes`: the object that each region answers for.
        ious: (N,), each region's largest overlap.
        batch_size: How many to draw.
        positive_fraction: Share of positives at most; negatives fill up what these leave.
        bins: Ranges of overlap.

    Returns:
        Indices of the positives and of the negatives drawn, int64, ascending.
    """
    positives, negatives = (matches >= 0).nonzero()[:, 0], (matches == BACKGROUND).nonzero()[:, 0]
    wanted = int(batch_size * positive_fraction)
    if len(positives) > wanted:
        objects, group = matches[positives].unique(return_inverse=True)
        positives = _draw_from_groups(positives, group, len(objects), round(wanted / len(objects)) + 1, wanted)
    wanted = batch_size - len(positives)
    if len(negatives) > wanted:
        group = (ious[negatives] / ious.max().clamp(min=1e-6) * bins).long().clamp(max=bins - 1)
        negatives = _draw_from_groups(negatives, group, bins, wanted // bins, wanted)
    return positives, negatives


def _draw_from_groups(candidates: Tensor, group: Tensor, groups: int, each: int, count: int) -> Tensor:
    """``each`` of every group, or all that it has; then as many of the others, or of these, as make ``count``."""
    members = [(group == i).nonzero()[:, 0] for i in range(groups)]
    chosen = torch.cat([draw(places, min(each, len(places))) for places in members])
    if len(chosen) > count:
        chosen = draw(chosen, count)
    others = torch.ones_like(candidates, dtype=torch.bool).index_fill_(0, chosen, False).nonzero()[:, 0]
    return candidates[torch.cat([chosen, draw(others, count - len(chosen))]).sort().values]


def _negatives(available: int, batch_size: int, positives: int, per_positive: float | None) -> int:
    most = batch_size - positives
    if per_positive is not None:
        most = min(most, int(per_positive * max(1, positives)))
    return min(available, most)


def draw(candidates: Tensor, count: int) -> Tensor:
    """``count`` of the candidates in their order, each subset equally likely."""
    total, device = len(candidates), candidates.device
    if count == total:
        return candidates
    if total > 8 * count:  # no permutation of hundreds of thousands for the sake of a few hundred
        places = torch.randint(total, (2 * count,), device=device).unique()
        if len(places) >= count:
            chosen = torch.randperm(len(places), device=device)[:count]
            return candidates[places[chosen].sort().values]
    return candidates[torch.randperm(total, device=device)[:count].sort().values]
