"""What the commands share."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from .. import model_file
from .._errors import UserError
from ..model_file import ModelConfig


def load_model(path: str, device: torch.device) -> tuple[nn.Module, ModelConfig]:
    """The model of a file, in evaluation mode, on a device: a model's own (.safetensors) or a training's (.ckpt).

    Raises:
        UserError: If there is no such file, or something else in it.
    """
    if Path(path).suffix == ".ckpt":
        from ..training import checkpoints

        model, config = checkpoints.load_model(path)
    else:
        model, config = model_file.load(path)
    return model.to(device), config


def device(name: str | None, command: str) -> torch.device:
    """The device asked for, or by default a GPU where there is one.

    Raises:
        UserError: If torch cannot use it.
    """
    usable = torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise UserError(f"{command}: --device cuda: torch finds no usable CUDA device")
    return torch.device(name or ("cuda" if usable else "cpu"))


def output_folder(path: str, command: str) -> Path:
    """A folder to write to, made if it is not there.

    Raises:
        UserError: If it cannot be.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{command}: --out {path}: expected a folder to write to: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{command}: --out {path}: expected a folder to write to, got one that is read-only")
    return folder


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal; gives what moves it on.

    Raises:
        UserError: If rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise UserError('progress bars need rich: pip install "detops[training]"') from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.advance(task, number)
