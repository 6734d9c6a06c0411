"""What backbones and necks have in common."""

from typing import cast

from torch import nn


class Levels(nn.Module):
    """A module that gives features at several levels, finest first; any with these two attributes will do.

    Attributes:
        channels: Of each level.
        strides: Of each level, pixels of the image from one feature to the next.
    """

    channels: list[int]
    strides: list[int]


def as_levels(what: str, module: nn.Module) -> Levels:
    """The module itself, if it says its channels and strides."""
    if not hasattr(module, "channels") or not hasattr(module, "strides"):
        raise ValueError(f"expected a {what} with channels and strides, got {type(module).__name__}")
    return cast(Levels, module)
