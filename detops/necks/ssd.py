"""SSD's pyramid: ever smaller maps behind the backbone, each by a convolution of stride 2."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..levels import Levels

Block = Callable[[int, int], nn.Module]  # of so many channels to so many, half as large


class ExtraLevels(Levels):
    """The backbone's levels and smaller ones behind the last (https://arxiv.org/abs/1512.02325, figure 2).

    Args:
        channels: Of the backbone's levels.
        strides: Of the backbone's levels.
        out_channels: Of each level to add.
        block: What adds a level; by default two convolutions, 1×1 to half of its channels and 3×3.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: Sequence[int] = (512, 256, 256),
        block: Block | None = None,
    ) -> None:
        super().__init__()
        self.channels = [*channels, *out_channels]
        self.strides = [*strides, *(strides[-1] * 2 ** (i + 1) for i in range(len(out_channels)))]
        before = [channels[-1], *out_channels[:-1]]
        make = block or halving_block
        self.extra = nn.ModuleList(make(a, b) for a, b in zip(before, out_channels, strict=True))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """All levels, finest first."""
        levels = list(features)
        for block in self.extra:
            levels.append(block(levels[-1]))
        return levels


class VGGExtraLevels(Levels):
    """The six levels of SSD300 on VGG16 (https://arxiv.org/abs/1512.02325, section 3).

    conv4_3, normalised and rescaled; conv5_3 through VGG16's fully connected layers as convolutions; and four
    smaller ones.

    Args:
        channels: Of conv4_3 and conv5_3.
        strides: Of conv4_3 and conv5_3.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels = [channels[0], 1024, 512, 256, 256, 256]
        self.strides = [strides[0], strides[1], *(strides[1] * 2 ** (i + 1) for i in range(4))]
        self.scale = nn.Parameter(torch.full((channels[0],), 20.0))
        self.fc = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(channels[1], 1024, kernel_size=3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1),
            nn.ReLU(inplace=True),
        )
        self.extra = nn.ModuleList(
            [
                halving_block(1024, 512),
                halving_block(512, 256),
                halving_block(256, 256, stride=1, padding=0),
                halving_block(256, 256, stride=1, padding=0),
            ]
        )
        xavier_initialise(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """conv4_3 and conv5_3 to the six levels."""
        conv4, conv5 = features
        levels = [self.scale.view(1, -1, 1, 1) * F.normalize(conv4), self.fc(conv5)]
        for block in self.extra:
            levels.append(block(levels[-1]))
        return levels


def halving_block(in_channels: int, out_channels: int, stride: int = 2, padding: int = 1) -> nn.Sequential:
    """1×1 convolution to half of the channels, then 3×3."""
    block = nn.Sequential(
        nn.Conv2d(in_channels, out_channels // 2, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels // 2, out_channels, kernel_size=3, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )
    xavier_initialise(block)
    return block


def xavier_initialise(module: nn.Module) -> None:
    """The convolutions of SSD."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
