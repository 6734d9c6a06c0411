"""A training from its first to its last step, or from where it stopped."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._errors import UserError
from ..evaluation import Metrics
from ..model_file import ModelConfig
from .callbacks import Advance, Checkpoints, Interrupted, StopOnSignal
from .checkpoints import Checkpoint
from .data import Data, MakeLoader
from .finetune import Strategy
from .module import TrainingModule
from .options import TrainingOptions
from .progress import Progress
from .records import Display, Records
from .tasks import Task


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        progress: Where it stands.
        metrics: Of the last evaluation; None: there was none.
        interrupted: Whether it was asked to stop before its end.
    """

    progress: Progress
    metrics: Metrics | None
    interrupted: bool


def fit(
    task: Task,
    model: nn.Module,
    config: ModelConfig,
    options: TrainingOptions,
    training: MakeLoader,
    validation: MakeLoader,
    folder: Path,
    *,
    new: tuple[str, ...] = (),
    resume: Checkpoint | None = None,
    callbacks: tuple[Any, ...] = (),
) -> Outcome:
    """Trains a model, evaluates it after each epoch, and keeps the best and the last state in a folder.

    Args:
        task: What a batch means.
        model: To train; frozen as ``options.finetune`` says it.
        config: Of the model.
        options: Of the training.
        training: Makes the loader to train with, for a rank of so many processes.
        validation: Makes the loader to evaluate with.
        folder: For ``best.safetensors``, ``last.ckpt``, ``steps.csv`` and ``epochs.csv``.
        new: Names of the parameters that learn first, if the strategy is "head-then-all".
        resume: What to go on from: on one CPU to the same numbers as without interruption.
        callbacks: Further ones of Lightning's.

    Raises:
        UserError: If the losses are not finite, or the options ask for devices that are not there.
    """
    from lightning.pytorch import Trainer

    Strategy.parse(options.finetune).freeze(model)
    data = Data(training, validation, Progress() if resume is None else dataclasses.replace(resume.progress))
    module = TrainingModule(task, model, config, options, data, new if resume is None else resume.new)
    if resume is not None:
        _restore(module, resume)
    signals, records, display = StopOnSignal(module), Records(module, folder), Display(module)
    with _quiet():
        trainer = Trainer(
            **_devices(options),
            precision=_PRECISIONS[options.precision],
            max_epochs=options.num_epochs - module.progress.epoch,
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip_gradients or None,
            callbacks=[Advance(module), *callbacks, records, Checkpoints(module, folder), display, signals],
            reload_dataloaders_every_n_epochs=1,  # an epoch may begin in its middle
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            if not module.progress.evaluated:
                trainer.validate(module, datamodule=data, verbose=False)
            trainer.fit(module, datamodule=data)
            interrupted = False
        except Interrupted:
            interrupted = True
        finally:
            signals.restore()
            display.close()
            records.close()
    return Outcome(module.progress, module.metrics, interrupted)


_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


def _restore(module: TrainingModule, checkpoint: Checkpoint) -> None:
    try:
        module.model.load_state_dict(checkpoint.model)
        if module.average is not None:
            module.average.load_state_dict(checkpoint.average or {})
    except (RuntimeError, TypeError) as error:
        raise UserError(f"train: --resume: expected weights of {module.config.name}: {str(error)[:300]}") from error
    module.optimizer_state = checkpoint.optimizer


def _devices(options: TrainingOptions) -> dict[str, Any]:
    """Lightning's arguments; under torchrun the number of processes is torchrun's."""
    from lightning.pytorch.strategies import DDPStrategy

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train: --device cuda: expected a GPU that torch can use, found none")
    accelerator = "gpu" if options.device == "cuda" else "cpu"
    devices, nodes = options.devices, 1
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if accelerator == "cpu" and options.precision == "16-mixed":
        raise UserError("train: --precision 16-mixed: expected --device cuda; on the CPU there is bf16-mixed")
    if accelerator == "gpu" and devices > torch.cuda.device_count():
        raise UserError(f"train: --devices {devices}: expected that many GPUs, found {torch.cuda.device_count()}")
    if options.batch_size % (devices * nodes):
        raise UserError(
            f"train: expected --batch-size that {devices * nodes} devices share evenly, got {options.batch_size}"
        )
    strategy: Any = "auto"
    if devices * nodes > 1:
        changes = Strategy.parse(options.finetune).changes
        strategy = DDPStrategy(broadcast_buffers=False, find_unused_parameters=changes)
    return {"accelerator": accelerator, "devices": devices, "num_nodes": nodes, "strategy": strategy}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on what is on purpose here."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            warnings.filterwarnings("ignore", message=".*GPU available but not used")
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
