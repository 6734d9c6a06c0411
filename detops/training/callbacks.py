"""What happens around the steps: counting, stopping, saving."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .. import model_file
from .checkpoints import BEST, LAST, Checkpoint
from .module import TrainingModule


class Interrupted(BaseException):
    """A training was asked to stop, and has."""


class Advance(Callback):
    """Counts batches and steps, averages weights after each step; the first of the callbacks."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, TrainingModule)
        module.stepped = trainer.global_step > self._steps
        self._steps = trainer.global_step
        if module.stepped and module.average is not None:
            module.average.update(module.model)
        module.progress.advance(module.data.batches_per_epoch, stepped=module.stepped)


class StopOnSignal(Callback):
    """Ctrl-C and SIGTERM end the training after the running step; a second one at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in self._SIGNALS}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(module)

    def _listen(self, module: LightningModule) -> None:
        """In place of Lightning's handler, which is set just before training starts."""
        assert isinstance(module, TrainingModule)

        def handle(number: int, frame: FrameType | None) -> None:
            if module.stop_asked:
                raise Interrupted
            module.stop_asked = True

        for number in self._SIGNALS:
            signal.signal(number, handle)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """What was trained is saved already; several processes end their evaluation together."""
        assert isinstance(module, TrainingModule)
        if module.stop_asked and trainer.world_size == 1:
            raise Interrupted

    def restore(self) -> None:
        """What listened to the signals before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Checkpoints(Callback):
    """Writes the last state at each epoch's end and every so many steps, and the best weights; the last callback.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, TrainingModule)
        stopping = module.stopping or (module.stop_asked and trainer.world_size == 1)
        every = module.options.checkpoint_steps
        due = module.progress.batch == 0 or (every > 0 and module.progress.step % every == 0)
        if module.stepped and (due or stopping):
            self._save(trainer, module)
        if module.stepped and stopping:
            trainer.strategy.barrier()
            raise Interrupted

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, TrainingModule) and module.metrics is not None
        metric, value = module.metrics.main
        best = module.progress.judge(metric, float(value))  # or a NumPy number, which checkpoints may not hold
        if best and trainer.is_global_zero:
            model_file.save(self.folder / BEST, module.predictor, module.config)
        self._save(trainer, module)

    def _save(self, trainer: Trainer, module: TrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        optimizer = module.optimizer_state
        if trainer.optimizers:
            optimizer = {
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
            }
        Checkpoint(
            module.config,
            module.options,
            module.progress,
            module.model.state_dict(),
            None if module.average is None else module.average.state_dict(),
            optimizer,
            module.new,
        ).save(self.folder / LAST)
