"""Necks: the features of a backbone, refined and combined.

A neck is a module with ``channels`` and ``strides`` that turns a list of features into another, finest level first.
"""

from collections.abc import Callable

from torch import nn

from ..levels import Levels, as_levels
from .balanced import BalancedPyramid as BalancedPyramid
from .fpn import FPN as FPN
from .nas_fpn import NASFPN as NASFPN
from .pan import PAN as PAN
from .ssd import ExtraLevels as ExtraLevels
from .ssd import VGGExtraLevels as VGGExtraLevels

# A neck, or what makes one for the channels and strides of a backbone.
Neck = nn.Module | Callable[[list[int], list[int]], nn.Module]


def build(neck: Neck | None, default: Callable[[list[int], list[int]], nn.Module], backbone: Levels) -> Levels:
    """The neck asked for, or the default one, on a backbone."""
    if not isinstance(neck, nn.Module):
        neck = (neck or default)(backbone.channels, backbone.strides)
    return as_levels("neck", neck)


class NoNeck(nn.Identity, Levels):
    """The features of the backbone as they are."""

    def __init__(self, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.channels, self.strides = channels, strides
