"""Any backbone of timm that gives features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..levels import Levels
from .stages import check_frozen_stages


class TimmBackbone(Levels):
    """Some levels of a timm model with ``features_only``; arguments as :func:`detops.backbones.build`."""

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        pretrained: bool = False,
        frozen_stages: int = 0,
        frozen_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(name):
            raise ValueError(f"expected the name of a timm model, got {name!r}")
        with torch.device("meta"):
            every = timm.create_model(name, features_only=True)
        levels = _levels(name, every.feature_info.reduction(), strides)
        check_frozen_stages(name, frozen_stages, len(every.feature_info))
        self.model = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=levels)
        self.channels = self.model.feature_info.channels()
        self.strides = self.model.feature_info.reduction()
        if frozen_stages:
            below = _parameters_below(every, frozen_stages - 1)
            for parameter_name, parameter in self.model.named_parameters():
                parameter.requires_grad_(parameter_name not in below)
        if frozen_batch_norm:
            self.model = timm.layers.freeze_batch_norm_2d(self.model)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the levels, finest first."""
        return self.model(x)


def _timm() -> Any:
    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise ImportError('backbones of timm need it installed: pip install "detops[detectors]"') from error
    return timm


def _levels(name: str, available: list[int], strides: Sequence[int]) -> list[int]:
    """Of each stride the last level that has it."""
    missing = [stride for stride in strides if stride not in available]
    if missing:
        raise ValueError(f"expected strides of {name} among {available}, got {missing}")
    return [max(i for i, stride in enumerate(available) if stride == wanted) for wanted in strides]


def _parameters_below(model: nn.Module, level: int) -> set[str]:
    """Names of the parameters that a level is computed from; of a model without data."""
    feature = model(torch.empty(1, 3, 256, 256, device="meta"))[level]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(feature.sum(), list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
