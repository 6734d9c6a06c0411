"""What the builders of detectors share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from .. import backbones, necks
from ..levels import Levels
from ..necks import FPN, Neck
from .convert import Weights

Backbone = str | nn.Module | None


def build_backbone(
    backbone: Backbone,
    default: str | Callable[..., Levels],
    strides: Sequence[int],
    weights: Weights,
    options: dict[str, Any],
    *,
    frozen_stages: int = 2,
    frozen_batch_norm: bool = True,
) -> Levels:
    """The backbone asked for, or a detector's own.

    A detector's options are, for its backbone, as :func:`detops.backbones.build`:

    - ``pretrained_backbone``: fetch published weights; False.
    - ``frozen_stages``: how many leading stages are not trained. By default, as torchvision's, the first ones of a
      backbone that comes with weights, none of one that starts from nothing.
    - ``frozen_batch_norm``: batch normalisation with fixed statistics; by default the like.

    Args:
        backbone: The detector's argument.
        default: What None stands for: a name, or what makes it from ``pretrained``, ``frozen_stages`` and
            ``frozen_batch_norm``.
        strides: Of the levels wanted, for a name.
        weights: The detector's argument.
        options: The detector's; those above are taken out.
        frozen_stages: Of a backbone with weights, unless the options say otherwise.
        frozen_batch_norm: As well.
    """
    pretrained = options.pop("pretrained_backbone", False)
    trained = pretrained or weights is not None
    frozen: dict[str, Any] = {
        "pretrained": pretrained,
        "frozen_stages": options.pop("frozen_stages", frozen_stages if trained else 0),
        "frozen_batch_norm": options.pop("frozen_batch_norm", frozen_batch_norm and trained),
    }
    if backbone is not None:
        return backbones.build(backbone, strides, **frozen)
    if isinstance(default, str):
        return backbones.build(default, strides, **frozen)
    return default(**frozen)


def build_pyramid(neck: Neck | None, backbone: Levels, options: dict[str, Any], **fpn: Any) -> Levels:
    """The neck asked for, or a Feature Pyramid Network.

    A detector's option for the latter is ``neck_channels``: of every level, and so of the head; 256.

    Args:
        neck: The detector's argument.
        backbone: What it stands on.
        options: The detector's; that above is taken out.
        fpn: Further ones of :class:`detops.necks.FPN`.

    Raises:
        ValueError: If there are no channels.
    """
    channels = options.pop("neck_channels", 256)
    if channels < 1:
        raise ValueError(f"expected neck_channels of at least 1, got {channels}")
    return necks.build(neck, partial(FPN, out_channels=channels, **fpn), backbone)
