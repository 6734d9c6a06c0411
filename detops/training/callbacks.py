"""What happens around the steps: counting, stopping, saving."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer

from .. import model_file
from .checkpoints import BEST, LAST, Checkpoint
from .module import TrainingModule


class Interrupted(BaseException):
    """A training was asked to stop, and has."""


class ModuleCallback(Callback):
    """A callback that knows its module by its own type.

    Args:
        module: What the trainer fits.
    """

    def __init__(self, module: TrainingModule) -> None:
        self.module = module


class Advance(ModuleCallback):
    """Counts batches and steps, averages weights after each step; the first of the callbacks."""

    def on_train_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.module.stepped = trainer.global_step > self._steps
        self._steps = trainer.global_step
        if self.module.stepped and self.module.average is not None:
            self.module.average.update(self.module.model)
        self.module.progress.advance(self.module.data.batches_per_epoch, stepped=self.module.stepped)


class StopOnSignal(ModuleCallback):
    """Ctrl-C and SIGTERM end the training after the running step; a second one at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, module: TrainingModule) -> None:
        super().__init__(module)
        self._before = {number: signal.getsignal(number) for number in self._SIGNALS}

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._listen()

    def on_validation_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._listen()

    def _listen(self) -> None:
        """In place of Lightning's handler, which is set just before training starts."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.module.stop_asked:
                raise Interrupted
            self.module.stop_asked = True

        for number in self._SIGNALS:
            signal.signal(number, handle)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """What was trained is saved already; several processes end their evaluation together."""
        if self.module.stop_asked and trainer.world_size == 1:
            raise Interrupted

    def restore(self) -> None:
        """What listened to the signals before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Checkpoints(ModuleCallback):
    """Writes the last state at each epoch's end and every so many steps, and the best weights; the last callback.

    Args:
        module: What the trainer fits.
        folder: Where to.
    """

    def __init__(self, module: TrainingModule, folder: Path) -> None:
        super().__init__(module)
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        stopping = self.module.stopping or (self.module.stop_asked and trainer.world_size == 1)
        every = self.module.options.checkpoint_steps
        due = self.module.progress.batch == 0 or (every > 0 and self.module.progress.step % every == 0)
        if self.module.stepped and (due or stopping):
            self._save(trainer)
        if self.module.stepped and stopping:
            trainer.strategy.barrier()
            raise Interrupted

    def on_validation_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        assert self.module.metrics is not None
        metric, value = self.module.metrics.main
        best = self.module.progress.judge(metric, float(value))  # or a NumPy number, which checkpoints may not hold
        if best and trainer.is_global_zero:
            model_file.save(self.folder / BEST, self.module.predictor, self.module.config)
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        optimizer = self.module.optimizer_state
        if trainer.optimizers:
            optimizer = {
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
            }
        Checkpoint(
            self.module.config,
            self.module.options,
            self.module.progress,
            self.module.model.state_dict(),
            None if self.module.average is None else self.module.average.state_dict(),
            optimizer,
            self.module.new,
        ).save(self.folder / LAST)
