"""NAS-FPN: a pyramid whose connections were searched for, several times over."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..levels import Levels

_LEVELS = 5  # that the search was made for: P3 to P7
_CELLS = ("p4_attended", "p4_summed", "p3", "p4", "p5", "p7", "p6")  # those that end in a convolution


class NASFPN(Levels):
    """NAS-FPN (https://arxiv.org/abs/1904.07392), figure 6: the architecture "7 @ 256" by default.

    Args:
        channels: Of the backbone's levels, finest first, at most five.
        strides: Of the backbone's levels.
        out_channels: Of every level of the pyramid.
        repeats: How many times the searched cells follow each other.
        norm_layer: Makes the normalisation behind each convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 256,
        repeats: int = 7,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if not 1 <= len(channels) <= _LEVELS:
            raise ValueError(f"NASFPN: expected 1 to {_LEVELS} levels, got {len(channels)}")
        above = _LEVELS - len(channels)
        self.channels = [out_channels] * _LEVELS
        self.strides = [*strides, *(strides[-1] * 2 ** (i + 1) for i in range(above))]
        self.lateral = nn.ModuleList(_projection(n, out_channels, norm_layer) for n in channels)
        self.extra = nn.ModuleList(
            nn.Sequential(_projection(out_channels, out_channels, norm_layer), nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(above)
        )
        self.cells = nn.Sequential(*(_Cells(out_channels, norm_layer) for _ in range(repeats)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's levels (B, channels[i], H_i, W_i) to five of (B, out_channels, H_i, W_i)."""
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for extra in self.extra:
            levels.append(extra(levels[-1]))
        return self.cells(levels)


class _Cells(nn.ModuleDict):
    """The seven merging cells, in the order in which they were found."""

    def __init__(self, channels: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__({name: _output(channels, norm_layer) for name in _CELLS})

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5, p6, p7 = levels
        summed = self["p4_summed"](self["p4_attended"](_attended(p6, p4, p4)) + p4)
        p3 = self["p3"](_resized(summed, p3) + p3)
        p4 = self["p4"](_resized(p3, summed) + summed)
        p5 = self["p5"](p5 + _attended(p4, p3, p5))
        p7 = self["p7"](p7 + _attended(p5, summed, p7))
        p6 = self["p6"](_attended(p7, p5, p6))
        return [p3, p4, p5, p6, p7]


def _attended(coarse: Tensor, fine: Tensor, like: Tensor) -> Tensor:
    """Global pooling: ``fine`` plus ``coarse`` weighted by each channel's mean in ``fine`` (figure 4)."""
    coarse, fine = _resized(coarse, like), _resized(fine, like)
    return fine + fine.mean(dim=(2, 3), keepdim=True).sigmoid() * coarse


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """At another size: the nearest of fewer, the largest of more features."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    if x.shape[-2] <= size[0] and x.shape[-1] <= size[1]:
        return F.interpolate(x, size=size, mode="nearest")
    return F.adaptive_max_pool2d(x, size)


def _projection(in_channels: int, out_channels: int, norm_layer: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), norm_layer(out_channels))


def _output(channels: int, norm_layer: Callable[[int], nn.Module]) -> nn.Sequential:
    """ReLU, convolution (whose bias the normalisation undoes; the published weights have it), normalisation."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, kernel_size=3, padding=1), norm_layer(channels))
