"""Balanced feature pyramid: every level strengthened by what all of them have in common."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads.layers import initialise_normal
from ..levels import Levels


class BalancedPyramid(Levels):
    """A pyramid behind another neck: integrate, refine, strengthen.

    "Libra R-CNN" (https://arxiv.org/abs/1904.02701), section 3.2: all levels at one size, their mean refined by a
    non-local block, and added to each level.

    Args:
        pyramid: Neck whose levels have as many channels.
        refine_level: Index of the level at whose size the mean is refined.

    Raises:
        ValueError: If levels differ in channels, or there is no such level.
    """

    def __init__(self, pyramid: Levels, refine_level: int = 2) -> None:
        super().__init__()
        self.channels, self.strides = pyramid.channels, pyramid.strides
        if len(set(self.channels)) != 1:
            raise ValueError(f"BalancedPyramid: expected levels of as many channels, got {self.channels}")
        if not 0 <= refine_level < len(self.channels):
            raise ValueError(
                f"BalancedPyramid: expected refine_level from 0 to {len(self.channels) - 1}, got {refine_level}"
            )
        self.refine_level = refine_level
        self.pyramid = pyramid
        self.refine = NonLocal(self.channels[0])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's levels to the pyramid's, as many and of the same sizes as without the balance."""
        levels = self.pyramid(features)
        return scatter(self.refine(integrate(levels, self.refine_level)), levels, self.refine_level)


def integrate(levels: Sequence[Tensor], at: int) -> Tensor:
    """The mean of all levels (B, C, H_i, W_i) at the size of one: finer ones by their maxima, coarser ones enlarged."""
    size = levels[at].shape[-2:]
    finer = [F.adaptive_max_pool2d(level, size) for level in levels[:at]]
    coarser = [F.interpolate(level, size=size, mode="nearest") for level in levels[at:]]
    return torch.stack([*finer, *coarser]).mean(dim=0)


def scatter(refined: Tensor, levels: Sequence[Tensor], at: int) -> list[Tensor]:
    """Each level plus what :func:`integrate` gave, back at its size."""
    finer = [level + F.interpolate(refined, size=level.shape[-2:], mode="nearest") for level in levels[:at]]
    return finer + [level + F.adaptive_max_pool2d(refined, level.shape[-2:]) for level in levels[at:]]


class NonLocal(nn.Module):
    """Non-local block, embedded Gaussian (https://arxiv.org/abs/1711.07971, section 3.2); the identity at first.

    Args:
        channels: Of input, embeddings and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, kernel_size=1) for _ in range(4))
        initialise_normal(self)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), every location plus what it attends to in the whole map."""
        query, key, value = (f(x).flatten(2).transpose(1, 2)[:, None] for f in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.out(attended[:, 0].transpose(1, 2).reshape(x.shape))
