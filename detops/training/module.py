"""The training of any task as Lightning's module."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .._errors import UserError
from ..evaluation import Metrics
from ..model_file import ModelConfig
from ..prediction import predict
from . import optimisers
from .average import ExponentialAverage
from .data import Data
from .finetune import Strategy
from .options import TrainingOptions
from .progress import Progress
from .tasks import Evaluator, Task

Batch = tuple[Sequence[Tensor], Sequence[Any]]


class TrainingModule(LightningModule):
    """Steps, evaluations and optimisers; knows nothing of files.

    Args:
        task: What a batch means.
        model: To train, frozen as the options say.
        config: Of the model.
        options: Of the training.
        data: Its batches, from where it stands.
        new: Names of the parameters that learn first, see :meth:`detops.training.finetune.Strategy.begin_epoch`.

    Attributes:
        losses: Of the last batch, by name, means over all processes.
        stop_asked: Whether this process was asked to stop.
        stopping: Whether all are to stop after this step.
        stepped: Whether the optimiser did, at the end of the last batch.
        metrics: Of the last evaluation.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        config: ModelConfig,
        options: TrainingOptions,
        data: Data,
        new: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.task, self.model, self.config = task, model, config
        self.options, self.data, self.new = options, data, tuple(new)
        self.average = ExponentialAverage(model, options.ema) if options.ema else None
        self.losses: dict[str, float] = {}
        self.stop_asked = self.stopping = self.stepped = False
        self.metrics: Metrics | None = None
        self.optimizer_state: dict[str, Any] = {}
        self._strategy = Strategy.parse(options.finetune)
        self._evaluator: Evaluator

    @property
    def predictor(self) -> nn.Module:
        """The weights that are evaluated and kept."""
        return self.model if self.average is None else self.average.model

    @property
    def progress(self) -> Progress:
        return self.data.progress

    def configure_optimizers(self) -> Any:
        options = self.options
        optimiser = optimisers.build(self.model, options)
        total_steps = options.num_epochs * math.ceil(self.data.batches_per_epoch / options.accumulate)
        schedule = LambdaLR(optimiser, optimisers.schedule(options, total_steps))
        if self.optimizer_state:
            try:
                optimiser.load_state_dict(self.optimizer_state["optimizer"])
                schedule.load_state_dict(self.optimizer_state["schedule"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"train: --resume: expected the state of {options.optimizer}: {error}") from error
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        if self.optimizer_state:
            self.trainer.precision_plugin.load_state_dict(self.optimizer_state["precision"])

    def on_train_epoch_start(self) -> None:
        self._strategy.begin_epoch(self.progress.epoch, self.model, self.new)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draws random numbers by the batch's place alone, so that a run goes on as if it had not been interrupted."""
        place = [self.options.seed, self.progress.batches, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        try:
            losses = self.task.losses(self.model, *batch)
        except ValueError as error:  # what the model cannot be trained on
            names = ", ".join(self.data.names(self.progress.epoch, self.progress.batch))
            raise UserError(f"train: images {names}: {error}") from error
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self._share({"loss": total, **losses})
        return total

    def _share(self, losses: dict[str, Tensor]) -> None:
        """Means over all processes, and whether one of them is to stop: in one go."""
        own = torch.stack([loss.detach().float() for loss in losses.values()])
        asked = own.new_tensor([float(self.stop_asked)])
        shared = self.trainer.strategy.reduce(torch.cat([own, asked]), reduce_op="mean")
        *values, stopping = shared.tolist()
        self.losses = dict(zip(losses, values, strict=True))
        self.stopping = stopping > 0
        if not all(map(math.isfinite, values)):
            self._refuse(own.tolist())

    def _refuse(self, own: list[float]) -> None:
        parts = ", ".join(f"{name} {value:g}" for name, value in self.losses.items())
        where = "of another process"
        if not all(map(math.isfinite, own)):
            where = ", ".join(self.data.names(self.progress.epoch, self.progress.batch))
        raise UserError(
            f"train: expected finite losses, got {parts} in step {self.progress.step} (epoch {self.progress.epoch + 1},"
            f" batch {self.progress.batch + 1}), images {where}; a smaller --learning-rate or --clip-gradients may help"
        )

    def on_validation_epoch_start(self) -> None:
        self._evaluator = self.task.evaluator(self.config.classes)
        self.predictor.eval()
        if self.trainer.world_size > 1:
            _average_buffers(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        found = predict(self.predictor, self.config.task, images)
        for target, of_image in zip(_on_cpu(targets), found, strict=True):
            self._evaluator.update(target, of_image)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size == 1:
            self.metrics = self._evaluator.compute()
            return
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, self._evaluator)
        evaluator = self.task.evaluator(self.config.classes)
        evaluator.merge(gathered)
        self.metrics = evaluator.compute()


def _average_buffers(module: nn.Module) -> None:
    """Statistics of batch normalisation, which each process took of its own images."""
    for buffer in module.buffers():
        if buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer /= torch.distributed.get_world_size()


def _on_cpu(values: Any) -> Any:
    return move_data_to_device(values, torch.device("cpu"))
