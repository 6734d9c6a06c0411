"""Feature Pyramid Network: every level of a backbone enriched by those above it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ExtraFPNBlock(nn.Module):
    """Base of what adds levels above the pyramid."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Extend a pyramid.

        Args:
            results: Levels of the pyramid, finest first.
            x: Levels of the backbone.
            names: Of the pyramid's levels.

        Returns:
            Levels and names with the further ones behind.
        """
        raise NotImplementedError


class LastLevelMaxPool(ExtraFPNBlock):
    """One more level "pool", every second pixel of the last."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, F.max_pool2d(results[-1], kernel_size=1, stride=2)], [*names, "pool"]


class LastLevelP6P7(ExtraFPNBlock):
    """RetinaNet's levels "p6" and "p7" (https://arxiv.org/abs/1708.02002), by convolutions of stride 2.

    Args:
        in_channels: Channels of what p6 is made from: the backbone's last level, or, if these are as many as
            ``out_channels``, the pyramid's.
        out_channels: Channels of both.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.use_P5 = in_channels == out_channels
        _initialise(self)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(results[-1] if self.use_P5 else x[-1])
        return [*results, p6, self.p7(F.relu(p6))], [*names, "p6", "p7"]


class FeaturePyramidNetwork(nn.Module):
    """A pyramid of features with the same number of channels: :class:`torchvision.ops.FeaturePyramidNetwork`.

    "Feature Pyramid Networks for Object Detection" (https://arxiv.org/abs/1612.03144), section 3: each level is a 1×1
    convolution of the backbone's plus the next coarser level, enlarged; then a 3×3 convolution.

    Args:
        in_channels_list: Channels of the backbone's levels, finest first, all positive.
        out_channels: Channels of every level of the pyramid.
        extra_blocks: Adds levels above: :class:`LastLevelMaxPool`, :class:`LastLevelP6P7` or one of your own.
        norm_layer: Makes the normalisation behind each convolution, which then has no bias.

    Raises:
        ValueError: If a number of channels is 0.
    """

    _version = 2

    def __init__(
        self,
        in_channels_list: Sequence[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if 0 in in_channels_list:
            raise ValueError(f"FeaturePyramidNetwork: expected in_channels_list positive, got {list(in_channels_list)}")
        self.inner_blocks = nn.ModuleList(_block(n, out_channels, 1, norm_layer) for n in in_channels_list)
        self.layer_blocks = nn.ModuleList(_block(out_channels, out_channels, 3, norm_layer) for _ in in_channels_list)
        _initialise(self)
        self.extra_blocks = extra_blocks

    def forward(self, x: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
        """The pyramid of the backbone's levels, finest first: the same names and sizes, then any extra levels."""
        names, levels = list(x.keys()), list(x.values())
        pyramid: list[Tensor] = []
        above: Tensor | None = None
        for level, inner, layer in zip(levels[::-1], self.inner_blocks[::-1], self.layer_blocks[::-1], strict=True):
            merged = inner(level)
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            pyramid.insert(0, layer(merged))
            above = merged
        if self.extra_blocks is not None:
            pyramid, names = self.extra_blocks(pyramid, levels, names)
        return OrderedDict(zip(names, pyramid, strict=True))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2:  # the convolutions had no Sequential around them
            for i in range(len(self.inner_blocks)):
                for block in ("inner_blocks", "layer_blocks"):
                    for name in ("weight", "bias"):
                        old = f"{prefix}{block}.{i}.{name}"
                        if old in state_dict:
                            state_dict[f"{prefix}{block}.{i}.0.{name}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _block(
    in_channels: int, out_channels: int, kernel_size: int, norm_layer: Callable[..., nn.Module] | None
) -> nn.Sequential:
    bias = norm_layer is None
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    return nn.Sequential(convolution) if norm_layer is None else nn.Sequential(convolution, norm_layer(out_channels))


def _initialise(module: nn.Module) -> None:
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
