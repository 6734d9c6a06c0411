"""Backbones: an image to features at several strides.

A backbone is a module with ``channels`` and ``strides``, finest level first, that turns (B, 3, H, W) into a list of
features (B, channels[i], about H / strides[i], about W / strides[i]). Necks and heads ask for nothing else.
"""

from collections.abc import Sequence

from torch import nn

from ..levels import Levels, as_levels
from .stages import Stages as Stages
from .timm import TimmBackbone as TimmBackbone
from .torchvision import torchvision_backbone as torchvision_backbone
from .torchvision import torchvision_modules as torchvision_modules


def build(
    name: str | nn.Module,
    strides: Sequence[int] = (4, 8, 16, 32),
    *,
    pretrained: bool = False,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
) -> Levels:
    """A backbone by name.

    Args:
        name: Any timm model that gives features (``"resnet50"``, ``"efficientnet_b0"``), or one of torchvision's as
            ``"torchvision/resnet50"``; a module with ``channels`` and ``strides`` is returned as it is.
        strides: Of the levels wanted, pixels of the image from one feature to the next.
        pretrained: Fetch the weights that timm or torchvision publish.
        frozen_stages: Leading stages that are not trained. A stage ends where the stride grows: 1 freezes the stem of a
            ResNet, 2 also its first residual stage.
        frozen_batch_norm: Batch normalisation with fixed statistics and parameters, as detectors with few images per
            step want it.

    Raises:
        ValueError: If there is no such model, or it has no level of a stride.
    """
    if isinstance(name, nn.Module):
        return as_levels("backbone", name)
    family, _, model = name.rpartition("/")
    if family == "torchvision":
        return torchvision_backbone(
            model,
            strides,
            pretrained=pretrained,
            frozen_stages=frozen_stages,
            frozen_batch_norm=frozen_batch_norm,
        )
    if family not in ("", "timm"):
        raise ValueError(f'expected a backbone of timm, or of torchvision as "torchvision/...", got {name!r}')
    return TimmBackbone(
        model, strides, pretrained=pretrained, frozen_stages=frozen_stages, frozen_batch_norm=frozen_batch_norm
    )
