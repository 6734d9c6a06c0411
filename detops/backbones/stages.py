"""A network's modules in a row, some of whose outputs are the features."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..levels import Levels

_SIDE = 256  # of the image that strides are measured with


class Stages(nn.Sequential, Levels):
    """Runs modules in order and returns what some of them give.

    Args:
        modules: By name, in order; those behind the last output are dropped.
        outputs: Names of the modules whose outputs are the features.
    """

    def __init__(self, modules: Mapping[str, nn.Module], outputs: Sequence[str]) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        for name, module in modules.items():
            self.add_module(name, module)
            if name == self.outputs[-1]:
                break
        self.channels, self.strides = channels_and_strides(on_meta(self))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for name, module in self.named_children():
            x = module(x)
            if name in self.outputs:
                features.append(x)
        return features


class _Trace(nn.ModuleList):
    """The outputs of all."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := module(x) for module in self]


def stages_of(modules: Mapping[str, nn.Module]) -> dict[int, list[str]]:
    """Names of modules run in order, by the stride of their stage: a stage begins where the stride grows."""
    _, strides = channels_and_strides(on_meta(_Trace(modules.values())))
    stages: dict[int, list[str]] = {}
    for name, stride in zip(modules, strides, strict=True):
        stages.setdefault(stride, []).append(name)
    return stages


def channels_and_strides(features: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Of features that :func:`on_meta` gives."""
    return [f.shape[1] for f in features], [round(_SIDE / f.shape[2]) for f in features]


def on_meta(backbone: nn.Module) -> list[Tensor]:
    """What a backbone gives for one image, as tensors without data: nothing is computed, no statistics change."""
    state = {name: t.detach().to("meta") for name, t in [*backbone.named_parameters(), *backbone.named_buffers()]}
    return functional_call(backbone, state, torch.empty(1, 3, _SIDE, _SIDE, device="meta"))


def check_frozen_stages(name: str, frozen_stages: int, stages: int) -> None:
    """Raise unless so many of a network's stages can be frozen."""
    if not 0 <= frozen_stages <= stages:
        raise ValueError(f"expected frozen_stages of {name} from 0 to {stages}, got {frozen_stages}")
