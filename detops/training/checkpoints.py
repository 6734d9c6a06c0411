"""What a training leaves: ``best.safetensors``, the best weights, and ``last.ckpt``, all that it needs to go on."""

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import model_file
from .._errors import UserError
from ..model_file import ModelConfig
from .options import TrainingOptions
from .progress import Progress

BEST, LAST = "best.safetensors", "last.ckpt"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A training between two steps; tensors and plain values alone.

    Attributes:
        config: How the model is built.
        options: Of the training.
        progress: Where it stands.
        model: Weights.
        average: Their moving average, if there is one, with its counter.
        optimizer: The state of "optimizer", "schedule" and "precision".
        new: Names of the parameters that learn first.
    """

    config: ModelConfig
    options: TrainingOptions
    progress: Progress
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    new: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes all of it or nothing.

        Raises:
            UserError: If the disk is full.
        """
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        state |= {
            "format": _FORMAT,
            "config": self.config.to_json(),
            "options": self.options.to_json(),
            "progress": dataclasses.asdict(self.progress),
            "new": list(self.new),
        }
        with model_file.replacing(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise UserError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Checkpoint":
        """Reads what :meth:`save` wrote; a folder stands for its ``last.ckpt``. No code from the file is run.

        Raises:
            UserError: If there is no such file, or something else in it.
        """
        path = Path(path) / LAST if Path(path).is_dir() else Path(path)
        if not path.is_file():
            raise UserError(f"expected a training's checkpoint, found none at {path}")
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("it is no file of torch.save's, or only a part of one")
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError(f"got {type(state).__name__}")
            if state.pop("format", None) != _FORMAT:
                raise ValueError("it is something else, or of another version")
            state["config"] = ModelConfig.from_json(state["config"])
            state["options"] = TrainingOptions.from_json(state["options"])
            state["progress"] = Progress(**state["progress"])
            return Checkpoint(**state | {"new": tuple(state["new"])})
        except (pickle.UnpicklingError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"expected a training's checkpoint in {path}: {str(error)[:300]}") from error

    def build(self) -> nn.Module:
        """The model in evaluation mode; of the averaged weights, if there are any."""
        model = self.config.build()
        weights = self.model
        if self.average is not None:
            weights = {name.removeprefix("model."): t for name, t in self.average.items() if name.startswith("model.")}
        model.load_state_dict(weights)
        return model.eval()


def load_model(path: str | os.PathLike[str]) -> tuple[nn.Module, ModelConfig]:
    """The model of a file, in evaluation mode: a model's own (``.safetensors``) or a training's checkpoint (``.ckpt``).

    Raises:
        UserError: If there is no such file, or something else in it.
    """
    if Path(path).suffix != ".ckpt":
        return model_file.load(path)
    checkpoint = Checkpoint.load(path)
    try:
        return checkpoint.build(), checkpoint.config
    except (AttributeError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"expected a training's checkpoint in {path}: {str(error)[:300]}") from error
