"""Feature Pyramid Network on a list of features."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..levels import Levels
from ..ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7


class FPN(FeaturePyramidNetwork, Levels):
    """:class:`detops.ops.FeaturePyramidNetwork` (https://arxiv.org/abs/1612.03144) as a neck.

    Args:
        channels: Of the backbone's levels, finest first.
        strides: Of the backbone's levels.
        out_channels: Of every level of the pyramid.
        extra: Levels above: None; "pool", one, as Faster R-CNN; "p6p7" or "c6p7", two by convolutions, as RetinaNet,
            from the pyramid's last level or from the backbone's; "c6p7_linear", the latter without a ReLU in between.
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
        blocks: dict[str | None, Callable[[], ExtraFPNBlock | None]] = {
            None: lambda: None,
            "pool": LastLevelMaxPool,
            "p6p7": lambda: LastLevelP6P7(out_channels, out_channels),
            "c6p7": lambda: LastLevelP6P7(channels[-1], out_channels),
            "c6p7_linear": lambda: _LinearP6P7(channels[-1], out_channels),
        }
        if extra not in blocks:
            raise ValueError(f"FPN: expected extra of {', '.join(map(repr, blocks))}, got {extra!r}")
        super().__init__(channels, out_channels, blocks[extra](), norm_layer)
        above = {None: 0, "pool": 1}.get(extra, 2)
        self.channels = [out_channels] * (len(channels) + above)
        self.strides = [*strides, *(strides[-1] * 2 ** (i + 1) for i in range(above))]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """The backbone's levels (B, channels[i], H_i, W_i) to the pyramid's (B, out_channels, H_i, W_i)."""
        return list(super().forward({str(i): feature for i, feature in enumerate(features)}).values())


class _LinearP6P7(LastLevelP6P7):
    """p7 from p6 as it is; p6 always from the backbone's last level."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(x[-1])
        return [*results, p6, self.p7(p6)], [*names, "p6", "p7"]
