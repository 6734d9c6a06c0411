"""The numbers of a training: CSV files, TensorBoard's events, a line for each epoch and a bar for each step."""

import csv
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from .. import model_file
from .._errors import UserError
from .callbacks import ModuleCallback
from .module import TrainingModule

STEPS, EPOCHS = "steps.csv", "epochs.csv"
Row = Mapping[str, float | int]


class CsvLog:
    """Rows of numbers, each in the file at once.

    Args:
        path: Of the file; rows that it has are kept up to ``last``.
        key: The column that grows from row to row.
        last: Its last value to keep, where a run goes on; -1: none.
    """

    def __init__(self, path: Path, key: str, last: int) -> None:
        self.path = path
        self.columns: list[str] = []
        kept = [row for row in _rows(path) if _number(row.get(key), path) <= last]
        with model_file.replacing(path) as temporary:
            if kept:
                self.columns = list(kept[0])
                temporary.write_text(_csv(self.columns, [self.columns, *(list(row.values()) for row in kept)]))

    def write(self, row: Row) -> None:
        lines = []
        if not self.columns:
            self.columns = list(row)
            lines.append(self.columns)
        values = [format(row[name], ".9g") if name in row else "" for name in self.columns]
        with self.path.open("a", newline="") as file:
            file.write(_csv(self.columns, [*lines, values]))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _number(text: str | None, path: Path) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"train: --resume: expected in {path} what a training wrote, got {text!r} as number") from None


def _csv(columns: list[str], lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


class Records(ModuleCallback):
    """Writes ``steps.csv``, ``epochs.csv`` and, if wanted, TensorBoard's events.

    Args:
        module: What the trainer fits.
        folder: Where to.
    """

    def __init__(self, module: TrainingModule, folder: Path) -> None:
        super().__init__(module)
        self.folder = folder
        self._steps: CsvLog | None = None
        self._board: Any = None

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if not trainer.is_global_zero or self._steps is not None:
            return
        self._steps = CsvLog(self.folder / STEPS, "batch", self.module.progress.batches)
        done = self.module.progress.epoch if self.module.progress.evaluated else self.module.progress.epoch - 1
        self._epochs = CsvLog(self.folder / EPOCHS, "epoch", done)
        if self.module.options.tensorboard:
            self._board = _summary_writer(self.folder / "tensorboard", self.module.progress.step)

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self._steps is None:
            return
        progress = self.module.progress
        row = {"learning_rate": self._rate, **self.module.losses}
        self._steps.write({"batch": progress.batches, "step": progress.step, **row})
        self._show("train", row, progress.batches)

    def on_validation_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        assert self.module.metrics is not None
        if self._steps is None:
            return
        numbers = self.module.metrics.as_dict()
        self._epochs.write({"epoch": self.module.progress.epoch, "step": self.module.progress.step, **numbers})
        self._show("val", numbers, self.module.progress.batches)

    def _show(self, group: str, numbers: Mapping[str, float], batches: int) -> None:
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(f"{group}/{name}", value, batches)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("train: --tensorboard needs it installed: pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


class Display(ModuleCallback):
    """Prints a line for each epoch and, on a terminal, shows a bar with the losses of each step."""

    def __init__(self, module: TrainingModule) -> None:
        super().__init__(module)
        self._bar: Any = None
        self._since = time.monotonic()
        self._sum, self._count = 0.0, 0

    def on_train_epoch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._since, self._sum, self._count = time.monotonic(), 0.0, 0
        self._begin(trainer, "train", self.module.data.batches_per_epoch, self.module.progress.batch)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._sum, self._count = self._sum + self.module.losses["loss"], self._count + 1
        progress = self.module.progress
        best = f"  best {progress.metric} {progress.best:.4f}" if progress.best_epoch >= 0 else ""
        self._advance(" ".join(f"{name} {value:.4g}" for name, value in self.module.losses.items()) + best)

    def on_validation_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._begin(trainer, "evaluate", len(self.module.data.val_dataloader()), 0)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._advance("")

    def on_validation_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        assert self.module.metrics is not None
        self.close()
        if not trainer.is_global_zero:
            return
        name, value = self.module.metrics.main
        numbers = self.module.metrics.as_dict()
        easier = f" AP50 {numbers['AP50']:.4f}" if name != "AP50" and "AP50" in numbers else ""
        loss = f"loss {self._sum / self._count:.4f}  " if self._count else ""
        best = "  best" if self.module.progress.best_epoch == self.module.progress.epoch - 1 else ""
        rate = f"  lr {trainer.optimizers[0].param_groups[-1]['lr']:.2g}" if trainer.optimizers else ""
        print(
            f"epoch {self.module.progress.epoch}/{self.module.options.num_epochs}  {loss}{name} {value:.4f}{easier}"
            f"{rate}  {time.monotonic() - self._since:.1f} s{best}",
            flush=True,
        )

    def _begin(self, trainer: Trainer, what: str, total: int, done: int) -> None:
        self.close()
        if not trainer.is_global_zero or not sys.stdout.isatty():
            return
        epoch = self.module.progress.epoch + (what == "train")
        self._bar = _bar()
        title = f"{what} {epoch}/{self.module.options.num_epochs}"
        self._task = self._bar.add_task(title, total=total, completed=done, note="")
        self._bar.start()

    def _advance(self, note: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=1, note=note)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, transient=True)
