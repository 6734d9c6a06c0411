"""Which predictions the loss sees."""

import torch
from torch import Tensor


def sample_balanced(
    positive: Tensor, negative: Tensor, batch_size: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """A random mini-batch of positives and negatives of one image (https://arxiv.org/abs/1506.01497, section 3.1.3).

    Args:
        positive: (N,) bool.
        negative: (N,) bool.
        batch_size: How many to draw.
        positive_fraction: Share of positives at most; negatives fill up what these leave.

    Returns:
        Indices of the positives and of the negatives drawn, int64, ascending.
    """
    positives, negatives = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
    drawn = draw(positives, min(len(positives), int(batch_size * positive_fraction)))
    return drawn, draw(negatives, min(len(negatives), batch_size - len(drawn)))


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
