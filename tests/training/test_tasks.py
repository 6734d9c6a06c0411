"""The tasks beside detection: trained, evaluated and kept by the same loop."""

import argparse
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from detops._errors import UserError
from detops.commands import train
from detops.commands.train_arguments import add_train
from detops.prediction import predict
from detops.training.checkpoints import load_model


def detops(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_train(parser.add_subparsers())
    return train.main(parser.parse_args(["train", *map(str, arguments)]))


def test_classifies_and_starts_from_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--task", "classify", "--image-size", 32, "--num-epochs", 1, "--batch-size", 4, "--device", "cpu"]
    first, then = tmp_path / "first", tmp_path / "then"
    assert detops("--data", "digits:length=8", *tiny, "--backbone", "resnet10t", "--out", first) == 0
    assert "accuracy" in (first / "epochs.csv").read_text().splitlines()[0]
    model, config = load_model(first / "best.safetensors")
    assert (config.name, len(config.classes), config.options) == ("resnet10t", 10, {"size": 32})
    (scores,) = predict(model, "classify", [torch.rand(3, 40, 50)])
    assert float(scores.sum()) == pytest.approx(1)

    folder = tmp_path / "two"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                picture(folder / split / name / f"{i}.png")
    capsys.readouterr()
    weights = first / "best.safetensors"
    given = ["--data", f"folder:{folder}", *tiny, "--weights", weights, "--finetune", "head-then-all:1", "--out", then]
    assert detops(*given) == 0
    assert "new: classifier\n" in capsys.readouterr().out  # nothing else, and the backbone's name is the file's
    trained, before = load_model(then / "last.ckpt")[0].state_dict(), model.state_dict()
    changed = {key for key, value in trained.items() if not torch.equal(value, before[key])}
    assert changed == {"classifier.weight", "classifier.bias"}


def picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 20), (200, 10, 10)).save(path)


def test_segments(tmp_path: Path) -> None:
    data = ["--data", "digits:size=64,length=4", "--task", "segment", "--backbone", "resnet10t"]
    assert detops(*data, "--num-epochs", 1, "--batch-size", 2, "--device", "cpu", "--out", tmp_path / "run") == 0
    model, config = load_model(tmp_path / "run" / "best.safetensors")
    assert len(config.classes) == 11
    (classes,) = predict(model, "segment", [torch.rand(3, 40, 50)])
    assert classes.shape == (40, 50)


def test_other_tasks_have_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--detector ssd300_vgg16: expected --backbone with --task segment"):
        detops("--data", "digits", "--task", "segment", "--detector", "ssd300_vgg16", "--out", tmp_path)
