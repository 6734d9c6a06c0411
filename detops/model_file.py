"""A trained model in one file that says how to build it: weights and, as metadata, what :class:`ModelConfig` holds."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ._errors import UserError

TASKS = ("detect", "classify", "segment")
_KEY = "detops"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """How to build a model.

    Attributes:
        task: "detect", "classify" or "segment".
        name: Of the detector (:func:`detops.detectors.build`), or of the backbone of the other tasks.
        classes: Names; class i of a data set is label i, whatever number a detector's head gives it.
        options: For the builder; values that JSON has.
    """

    task: str
    name: str
    classes: tuple[str, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"expected task of {', '.join(TASKS)}, got {self.task!r}")
        if not self.classes:
            raise ValueError("expected classes of at least one name, got none")

    def build(self) -> nn.Module:
        """The model, with random weights.

        Raises:
            ValueError: If there is no such model, or it has no such option.
        """
        options = dict(self.options)
        if self.task == "detect":
            from . import detectors

            return detectors.build(
                self.name, num_classes=detectors.num_classes(self.name, len(self.classes)), **options
            )
        if self.task == "classify":
            from . import classifiers

            return classifiers.build(self.name, len(self.classes), **options)
        from . import segmenters

        return segmenters.build(self.name, len(self.classes), **options)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "ModelConfig":
        """Reads what :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is something else.
        """
        try:
            fields = json.loads(text)
            return ModelConfig(**fields | {"classes": tuple(fields["classes"])})
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"expected a model's configuration, got {text[:80]!r}") from error


def save(path: str | os.PathLike[str], model: nn.Module, config: ModelConfig) -> None:
    """Writes a model's weights, and how to build it, as safetensors; the file is there whole or not at all."""
    from safetensors.torch import save as to_bytes

    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(state, {_KEY: config.to_json()}))


def load(path: str | os.PathLike[str]) -> tuple[nn.Module, ModelConfig]:
    """Builds the model of a file that :func:`save` wrote, in evaluation mode. No code from the file is run.

    Raises:
        UserError: If there is no such file, or something else in it.
    """
    state, config = _read(Path(path))
    try:
        model = config.build()
        model.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"expected a model in {path}: {str(error)[:300]}") from error
    return model.eval(), config


def _read(path: Path) -> tuple[dict[str, Tensor], ModelConfig]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"expected a model's file, found none at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ValueError("it holds weights without their configuration; detops convert adds that")
            return {name: file.get_tensor(name) for name in file.keys()}, ModelConfig.from_json(text)  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"expected a model in {path}: {str(error)[:300]}") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write that takes the place of another only when it is whole and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # what is full, say
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
