"""Whole trainings of tiny detectors: what they leave, how they stop and go on."""

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rectangles import Finding, Rectangles, read_csv, training_loader, validation_loader

pytest.importorskip("lightning")

from lightning.pytorch import Callback

from detops._errors import UserError
from detops.model_file import ModelConfig
from detops.training.checkpoints import Checkpoint, load_model
from detops.training.data import Data
from detops.training.options import TrainingOptions
from detops.training.progress import Progress
from detops.training.run import Outcome, fit

RETINANET = ModelConfig(
    "detect", "retinanet_resnet50_fpn", Rectangles.classes, {"backbone": "resnet10t", "min_size": 64, "max_size": 64}
)
SSD = ModelConfig("detect", "ssdlite320_mobilenet_v3_large", Rectangles.classes, {"size": (64, 64)})


def options(config: ModelConfig, **given: Any) -> TrainingOptions:
    given = {"data": "rectangles", "batch_size": 2, "num_epochs": 2, "device": "cpu"} | given
    return TrainingOptions.for_model(config.task, config.name, **given)


def run(folder: Path, given: TrainingOptions, config: ModelConfig = SSD, length: int = 6, **further: Any) -> Outcome:
    torch.manual_seed(given.seed)
    resume = further.get("resume")
    model = (resume.config if resume else config).build()
    data = further.pop("data", Rectangles(length))
    validation = partial(validation_loader, Rectangles(3, first=1000))
    training = partial(training_loader, data, given.batch_size)
    return fit(Finding(), model, config, given, training, validation, folder, **further)


class Interrupt(Callback):
    """Sends a signal at the beginning of a batch."""

    def __init__(self, at: int, number: signal.Signals) -> None:
        self.at, self.number = at, number

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.progress.batches == self.at:
            os.kill(os.getpid(), self.number)


def test_resumes_mid_epoch_to_the_same_numbers(tmp_path: Path) -> None:
    """Averaged, clipped and accumulated: 2 epochs of 5 batches, stopped in the second, after its second batch."""
    given = options(SSD, ema=0.9, accumulate=2, clip_gradients=1.0)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert not run(straight, given, length=10).interrupted
    assert run(stopped, given, length=10, callbacks=(Interrupt(5, signal.SIGTERM),)).interrupted
    checkpoint = Checkpoint.load(stopped)
    assert (checkpoint.progress.epoch, checkpoint.progress.batch, checkpoint.progress.step) == (1, 2, 4)
    torch.rand(7)  # whatever the state of the generator
    outcome = run(stopped, checkpoint.options, length=10, resume=checkpoint)
    assert not outcome.interrupted
    assert len(read_csv(straight / "steps.csv")) == 10
    assert (stopped / "steps.csv").read_text() == (straight / "steps.csv").read_text()
    assert (stopped / "epochs.csv").read_text() == (straight / "epochs.csv").read_text()
    ended, as_ended = Checkpoint.load(straight), Checkpoint.load(stopped)
    torch.testing.assert_close(as_ended.model, ended.model, rtol=0, atol=0)
    torch.testing.assert_close(as_ended.average, ended.average, rtol=0, atol=0)
    assert as_ended.progress == ended.progress


def test_resumes_with_the_evaluation_that_was_interrupted(tmp_path: Path) -> None:
    given = options(SSD, num_epochs=1)

    class InEvaluation(Callback):
        def on_validation_batch_start(self, *args: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    assert run(tmp_path, given, callbacks=(InEvaluation(),)).interrupted
    checkpoint = Checkpoint.load(tmp_path)
    assert (checkpoint.progress.epoch, checkpoint.progress.evaluated) == (1, False)
    assert read_csv(tmp_path / "epochs.csv") == []
    outcome = run(tmp_path, given, resume=checkpoint)
    assert outcome.progress.evaluated
    assert [row["epoch"] for row in read_csv(tmp_path / "epochs.csv")] == ["1"]
    assert (tmp_path / "best.safetensors").is_file()


def test_signals_mean_again_what_they_did(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(tmp_path, options(SSD, num_epochs=1), length=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_leaves_the_best_and_the_last(tmp_path: Path) -> None:
    torch.manual_seed(0)
    outcome = run(tmp_path, options(SSD, ema=0.5, checkpoint_steps=2))
    assert {path.name for path in tmp_path.iterdir()} == {"best.safetensors", "last.ckpt", "steps.csv", "epochs.csv"}
    best, config = load_model(tmp_path / "best.safetensors")
    last, of_last = load_model(tmp_path / "last.ckpt")
    assert config.classes == of_last.classes == Rectangles.classes
    assert not best.training and not last.training
    average = Checkpoint.load(tmp_path).average
    assert average is not None
    for name, weight in last.state_dict().items():
        torch.testing.assert_close(weight, average[f"model.{name}"], rtol=0, atol=0)
    evaluations = [float(row["found"]) for row in read_csv(tmp_path / "epochs.csv")]
    assert outcome.progress.best == pytest.approx(max(evaluations))


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_refuses_too_few_images(rank: int) -> None:
    data = Data(partial(training_loader, Rectangles(4), 2), partial(validation_loader, Rectangles(1)), Progress())
    data.trainer = cast(Any, SimpleNamespace(global_rank=rank, world_size=2))
    with pytest.raises(UserError, match="an image to evaluate for each of 2 devices, got 1"):
        data.setup("fit")


def test_learns(tmp_path: Path) -> None:
    given = options(SSD, optimizer="adamw", learning_rate=1e-3, schedule="constant", num_epochs=4, batch_size=4)
    run(tmp_path, given, length=16)
    of_steps = [float(row["loss"]) for row in read_csv(tmp_path / "steps.csv")]
    assert sum(of_steps[-4:]) < 0.8 * sum(of_steps[:4]), of_steps


@pytest.mark.parametrize("config", [SSD, RETINANET])
def test_batches_without_objects(tmp_path: Path, config: ModelConfig) -> None:
    given = options(config, num_epochs=1)
    assert not run(tmp_path, given, config, data=Rectangles(2, empty=True)).interrupted


def test_mixed_precision(tmp_path: Path) -> None:
    run(tmp_path, options(SSD, num_epochs=1, precision="bf16-mixed"), length=2)
    assert load_model(tmp_path / "best.safetensors")[0].head.classification[0][1].weight.dtype == torch.float32
    with pytest.raises(UserError, match="--precision 16-mixed: expected --device cuda"):
        run(tmp_path, options(SSD, precision="16-mixed"))


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    class Impatient(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if module.progress.batches == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    assert run(tmp_path, options(SSD, checkpoint_steps=2), callbacks=(Impatient(),)).interrupted
    kept = Checkpoint.load(tmp_path).progress
    assert (kept.epoch, kept.batch, kept.step) == (1, 1, 4)


def test_says_which_images_gave_infinite_losses(tmp_path: Path) -> None:
    class Broken(Rectangles):
        def __getitem__(self, index: Any) -> Any:
            image, target = super().__getitem__(index)
            return (image * torch.inf if target["image_id"] == 3 else image), target

    with pytest.raises(UserError, match=r"expected finite losses, got loss nan.* images .*rectangle-3") as error:
        run(tmp_path, options(SSD), data=Broken(6))
    assert "\n" not in str(error.value)


def test_says_what_is_wrong_with_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("text")
    torch.save({"format": 0}, tmp_path / "old.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    for name in ("text.ckpt", "old.ckpt", "list.ckpt", "missing.ckpt"):
        with pytest.raises(UserError, match=f"expected a training's checkpoint.*{name}"):
            load_model(tmp_path / name)
