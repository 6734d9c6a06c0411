"""Which parts of a model learn, and from which weights it starts."""

import dataclasses
from collections.abc import Collection

import torch
from torch import nn

from .._errors import UserError
from ..model_file import ModelConfig

_NUMBERED = ("partial", "head-then-all")


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A strategy of fine-tuning.

    - "all": everything learns.
    - "partial:K": all but the backbone's first K stages; a stage ends where the stride grows.
    - "head": all but the backbone.
    - "head-then-all:K": for K epochs what is new alone, then everything.

    What does not learn is in evaluation mode: its batch normalisation keeps its statistics.
    """

    kind: str
    number: int = 0

    @staticmethod
    def parse(text: str) -> "Strategy":
        """Reads a strategy by name.

        Raises:
            UserError: If there is none of that name.
        """
        kind, colon, number = text.partition(":")
        if kind in ("all", "head") and not colon:
            return Strategy(kind)
        if kind in _NUMBERED and number.isdecimal() and int(number) >= 1:
            return Strategy(kind, int(number))
        raise UserError(f"train: expected --finetune all, partial:K, head or head-then-all:K, got {text}")

    @property
    def builder_options(self) -> dict[str, int]:
        """For the model's builder."""
        return {"frozen_stages": self.number} if self.kind == "partial" else {}

    @property
    def changes(self) -> bool:
        """Whether what learns differs from epoch to epoch."""
        return self.kind == "head-then-all"

    def freeze(self, model: nn.Module) -> None:
        """Keeps from learning what never will; the builder has seen to "partial"."""
        if self.kind == "head":
            model.get_submodule("backbone").requires_grad_(False)

    def begin_epoch(self, epoch: int, model: nn.Module, new: Collection[str]) -> None:
        """Puts a model into training mode for an epoch, what does not learn in it into evaluation mode.

        Args:
            epoch: From 0.
            model: Frozen by :meth:`freeze`.
            new: Names of the parameters that learn from the beginning; none: all but the backbone's.
        """
        if self.changes:
            for name, parameter in model.named_parameters():
                is_new = name in new if new else not name.startswith("backbone.")
                parameter.requires_grad_(epoch >= self.number or is_new)
        model.train()
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()


def load_weights(model: nn.Module, config: ModelConfig, source: nn.Module, source_config: ModelConfig) -> list[str]:
    """Starts a model from another's weights: all that fits, but no classifier of other classes.

    Args:
        model: To load into.
        config: Of the model.
        source: To load from.
        source_config: Of the source.

    Returns:
        Names of the parameters that are new: those that the source does not have, has in another shape, or has for
        other classes.

    Raises:
        UserError: If nothing fits.
    """
    classifier = set() if config.classes == source_config.classes else _depends_on_classes(config)
    weights = source.state_dict()
    fitting = {
        name: weights[name]
        for name, tensor in model.state_dict().items()
        if name in weights and weights[name].shape == tensor.shape and name not in classifier
    }
    names = [name for name, _ in model.named_parameters()]
    if not any(name in fitting for name in names):
        raise UserError(
            f"train: expected --weights that fit {config.name}, got those of {source_config.name}: nothing fits"
        )
    model.load_state_dict(fitting, strict=False)
    return [name for name in names if name not in fitting]


def _depends_on_classes(config: ModelConfig) -> set[str]:
    """Names of what has another shape if there is one more class."""
    more = dataclasses.replace(config, classes=(*config.classes, "one more"))
    with torch.device("meta"):
        shapes, others = ({k: v.shape for k, v in each.build().state_dict().items()} for each in (config, more))
    return {name for name in shapes if shapes[name] != others[name]}
