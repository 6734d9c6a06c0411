"""Path aggregation: a second way through the pyramid, from fine to coarse."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..levels import Levels
from .fpn import FPN


class PAN(Levels):
    """Path Aggregation Network (https://arxiv.org/abs/1803.01534), section 3.1.

    Behind a Feature Pyramid Network each level gets the finer one below it, halved by a convolution of stride 2.
    Without activations in between, as mmdet's PAFPN.

    Args:
        channels: Of the backbone's levels, finest first.
        strides: Of the backbone's levels.
        out_channels: Of every level of the pyramid.
        extra: Levels above: None; "pool", one more, every second pixel of the last.
        norm_layer: Makes the normalisation behind each convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 256,
        extra: str | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if extra not in (None, "pool"):
            raise ValueError(f"PAN: expected extra of None, 'pool', got {extra!r}")
        self.extra = extra
        self.fpn = FPN(channels, strides, out_channels, norm_layer=norm_layer)
        steps = len(channels) - 1
        self.down = nn.ModuleList(_convolution(out_channels, 2, norm_layer) for _ in range(steps))
        self.out = nn.ModuleList(_convolution(out_channels, 1, norm_layer) for _ in range(steps))
        above = 0 if extra is None else 1
        self.channels = [out_channels] * (len(channels) + above)
        self.strides = [*strides, *([strides[-1] * 2] * above)]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's levels (B, channels[i], H_i, W_i) to the pyramid's (B, out_channels, H_i, W_i)."""
        finest, *coarser = self.fpn(features)
        levels, below = [finest], finest
        for level, down, out in zip(coarser, self.down, self.out, strict=True):
            below = level + down(below)
            levels.append(out(below))
        if self.extra == "pool":
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels


def _convolution(channels: int, stride: int, norm_layer: Callable[..., nn.Module] | None) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=norm_layer is None)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution) if norm_layer is None else nn.Sequential(convolution, norm_layer(channels))
