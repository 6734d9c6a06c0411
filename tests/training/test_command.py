"""``detops train``: what it says, leaves and refuses."""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from detops._errors import UserError
from detops.commands import train
from detops.commands.train_arguments import add_train
from detops.training.callbacks import Advance
from detops.training.checkpoints import Checkpoint, load_model

DATA = "digits:size=64,length=12"
SSD = ["--detector", "ssdlite320_mobilenet_v3_large", "--image-size", "64", "--device", "cpu"]


def detops(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_train(parser.add_subparsers())
    return train.main(parser.parse_args(["train", *map(str, arguments)]))


def run(folder: Path, *arguments: object) -> int:
    return detops("--data", DATA, *SSD, "--batch-size", 4, "--num-epochs", 2, "--out", folder, *arguments)


def test_trains_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my run"
    assert run(folder, "--auto-anchors", "--tensorboard") == 0
    printed = capsys.readouterr().out
    for part in ("36 fitted to", "12 images with", "10 classes", "epoch 2/2", f"--weights '{folder}/best.safetensors'"):
        assert part in printed
    model, config = load_model(folder / "best.safetensors")
    assert config.classes == tuple("0123456789") and "anchor_sizes" in config.options
    assert model.transform.fixed_size == (64, 64)
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert len((folder / "epochs.csv").read_text().splitlines()) == 3

    with pytest.raises(UserError, match=f"expected a new folder, got one with a training: --resume {folder}"):
        run(folder)
    assert detops("--resume", folder) == 0
    assert "at its end already" in capsys.readouterr().out


def test_says_which_images_cannot_be_trained_on(tmp_path: Path) -> None:
    """Batch normalisation has no variance of one image whose features are a single pixel."""
    arguments = ("--task", "classify", "--backbone", "resnet10t", "--image-size", 32, "--batch-size", 1)
    with pytest.raises(UserError, match=r"images digits, train [0-9]+: Expected more than 1 value per channel"):
        detops("--data", DATA, *arguments, "--device", "cpu", "--out", tmp_path)


def test_a_training_that_fails_says_what_it_found_in_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").save(path)
        path.write_bytes(path.read_bytes()[:200])  # the header is whole
    arguments = ("--task", "classify", "--backbone", "resnet10t", "--image-size", 32, "--device", "cpu")
    with pytest.raises(UserError, match="no image can be read any more"):
        detops("--data", f"folder:{tmp_path / 'data'}", *arguments, "--out", tmp_path / "run")
    assert "2 problems in the data" in capsys.readouterr().err


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch.utilities", None)
    with pytest.raises(UserError, match=r'pip install "detops\[training\]"'):
        run(tmp_path)


def test_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run(straight) == 0

    def kill(self: Any, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if module.progress.batches == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Advance, "on_train_batch_start", kill)
        assert run(stopped) == 130
    assert f"stopped: epoch 2, batch 2; to go on: detops train --resume {stopped}" in capsys.readouterr().out
    assert detops("--resume", stopped / "last.ckpt", "--num-workers", 0) == 0
    assert "resumed in epoch 2 after 2 batches" in capsys.readouterr().out
    for name in ("steps.csv", "epochs.csv"):
        assert (stopped / name).read_text() == (straight / name).read_text()
    torch.testing.assert_close(Checkpoint.load(stopped).model, Checkpoint.load(straight).model, rtol=0, atol=0)

    with pytest.raises(UserError, match="--seed: expected no change"):
        detops("--resume", stopped, "--seed", 0)

    # and from its weights, another training
    assert run(tmp_path / "next", "--weights", stopped / "last.ckpt", "--num-epochs", 1) == 0
    assert "last.ckpt, all of them" in capsys.readouterr().out


def test_goes_on_from_nothing_else(tmp_path: Path) -> None:
    """A checkpoint that is broken or another's, and data that changed, are the user's mistakes."""
    assert run(tmp_path / "run", "--checkpoint-steps", 1) == 0
    good = Checkpoint.load(tmp_path / "run")
    middle = dataclasses.replace(good.progress, epoch=1, batch=1, evaluated=True)
    resumed = dataclasses.replace(good, progress=middle)
    path = tmp_path / "run" / "last.ckpt"
    for changes, message in (
        ({"config": dataclasses.replace(good.config, classes=("0", "9", *"12345678"))}, "expected classes 0, 1, 2"),
        ({"progress": dataclasses.replace(middle, batch=3)}, "3 batches an epoch, of which 3 are done"),
        ({"model": {}}, "expected weights of ssdlite320"),
        ({"optimizer": {"optimizer": {}}}, "expected the state of sgd"),
    ):
        dataclasses.replace(resumed, **changes).save(path)
        with pytest.raises(UserError, match=message):
            detops("--resume", path)
    resumed.save(path)
    steps = tmp_path / "run" / "steps.csv"
    steps.write_text(steps.read_text() + "\0\0\n")  # as a power cut leaves it
    with pytest.raises(UserError, match=r"expected in .*steps\.csv what a training wrote"):
        detops("--resume", path)
    for content in (torch.zeros(3), None, [1], {"state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(UserError, match="expected a training's checkpoint in"):
            detops("--resume", path)

    path.unlink()
    with pytest.raises(UserError, match=r"got one with a best\.safetensors"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --data SPEC"),
        (["--data", DATA], "expected --detector NAME"),
        (["--data", "zip:x", *SSD], "expected data as digits"),
        (["--data", DATA, "--detector", "nosuch"], "--detector nosuch: expected one of fasterrcnn"),
        (["--data", DATA, "--task", "classify"], "expected --backbone NAME"),
        (["--data", DATA, *SSD, "--batch-size", "0"], "--batch-size at least 1, got 0"),
        (["--data", DATA, *SSD, "--finetune", "tail"], "--finetune all, partial:K"),
        (["--data", DATA, *SSD, "--seed", 10**25], "--seed from 0 to below"),
        (
            ["--data", DATA, "--detector", "retinanet_resnet50_fpn", "--neck-channels", "0"],
            "neck_channels of at least 1, got 0",
        ),
        (["--data", DATA, *SSD, "--option", "size=[0, 64]"], "fixed_size of whole pixels, at least 1"),
        (["--data", DATA, *SSD, "--option", "pretrained_backbone=true"], "expected --pretrained-backbone instead"),
        (["--data", DATA, *SSD, "--option", "nosuch=1"], "ssdlite320_mobilenet_v3_large, it has no 'nosuch'"),
        (
            ["--data", DATA, "--task", "classify", "--backbone", "resnet18", "--augmentation", "ssd"],
            "--augmentation ssd: expected --task detect, got classify",
        ),
        (["--data", DATA, *SSD, "--backbone", "nosuch"], "timm model, got 'nosuch'"),
        (["--data", DATA, *SSD, "--weights", "nosuch"], "found none at nosuch"),
        (["--data", DATA, *SSD, "--devices", "3"], "--batch-size that 3 devices share evenly, got 8"),
        (["--resume", "nosuch"], "found none at nosuch"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        detops(*arguments, *([] if "--resume" in arguments else ["--out", tmp_path]))
    assert list(tmp_path.iterdir()) == []
