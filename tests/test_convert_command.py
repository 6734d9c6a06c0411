"""``detops convert``: weights of torchvision's detectors as model files."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("torchvision")

from torchvision.models import detection

from detops import cli, model_file
from detops.commands import convert
from detops.model_file import ModelConfig
from detops.ops import FrozenBatchNorm2d

SSD = "ssdlite320_mobilenet_v3_large"


def run(*arguments: object) -> int:
    return cli.main(["convert", *map(str, arguments)])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    build = getattr(detection, SSD)
    torch.save(build(weights=None, weights_backbone=None, num_classes=91).state_dict(), path)
    return path


def test_coco_weights(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model.safetensors"
    assert run(source, "--detector", SSD, "--out", out) == 0
    assert re.fullmatch(rf"wrote {out}: {SSD}, 90 classes, 3.4 million parameters\n", capsys.readouterr().out)
    model, config = model_file.load(out)
    assert config.classes[0] == "person" and config.classes[89] == "toothbrush"
    assert config.classes[11] == "unused 12"  # label 12, which COCO does not use
    peer = getattr(detection, SSD)(weights=None, weights_backbone=None, num_classes=91)
    peer.load_state_dict(torch.load(source, weights_only=True))
    images = [torch.rand(3, 100, 120)]
    with torch.no_grad():
        ours, theirs = model(images), peer.eval()(images)
    torch.testing.assert_close(ours[0]["scores"][:20], theirs[0]["scores"][:20], rtol=1e-4, atol=1e-5)


def test_classes_are_the_detectors_labels() -> None:
    for name, background in (("retinanet_resnet50_fpn", True), ("fasterrcnn_resnet50_fpn", False)):
        classes = convert.coco_classes(name)
        assert len(classes) == 90 + background
        assert classes.index("person") == int(background)
        assert len(set(classes)) == len(classes)


def test_mmdets_classes() -> None:
    for name in ("libra_retinanet_resnet50_fpn", "libra_fasterrcnn_resnet50_fpn"):
        classes = convert.mmdet_classes(name)
        assert (len(classes), classes[0], classes[79]) == (80, "person", "toothbrush")


@pytest.mark.parametrize("way", ["list", "file", "number"])
def test_other_classes(tmp_path: Path, way: str) -> None:
    weights, out, names = tmp_path / "own.safetensors", tmp_path / "model.safetensors", tmp_path / "names.txt"
    config = ModelConfig("detect", SSD, ("cat", "dog"))
    model_file.save(weights, config.build(), config)
    names.write_text("cat\ndog\n")
    arguments = {"list": ["--classes", "cat, dog"], "file": ["--classes-file", names], "number": ["--num-classes", 2]}
    assert run(weights, "--from", "detops", "--detector", SSD, "--out", out, *arguments[way]) == 0
    assert model_file.load(out)[1].classes == (("class 0", "class 1") if way == "number" else ("cat", "dog"))


def test_batch_normalisation_keeps_its_function_under_another_eps() -> None:
    """A file of a model says nothing of eps, so that it has to be the builder's."""
    module = FrozenBatchNorm2d(3, eps=0.0)
    module.running_var.copy_(torch.tensor([1.0, 1e-6, 0.0]))
    module.weight.copy_(torch.tensor([2.0, 3.0, 0.0]))
    module.bias.fill_(0.5)
    module.running_mean.fill_(0.1)
    x = torch.randn(1, 3, 4, 4)
    expected = module(x)
    expected[:, 2] = 0.5  # a dead channel, which is 0 / 0 without an eps
    convert._restore_eps(module, 1e-5)
    assert module.eps == 1e-5
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pth", "--detector", SSD], "expected a file of weights, found none at none.pth"),
        (["{source}", "--detector", "yolo"], "--detector yolo: expected one of fasterrcnn"),
        (["{source}", "--detector", SSD, "--num-classes", "3"], "expected head.classification.* of shape"),
        (
            ["{source}", "--detector", "retinanet_resnet50_fpn", "--backbone", "resnet10t"],
            "weights of this architecture",
        ),
        (["{source}", "--detector", SSD, "--classes", "a,a"], "--classes: expected names, each once, got a, a"),
        (["{source}", "--detector", SSD, "--from", "detops"], "expected --classes, --classes-file or --num-classes"),
        (["{source}", "--detector", SSD, "--classes-file", "none"], "--classes-file none: cannot be read"),
        (["{source}", "--detector", SSD, "--classes", "a", "--num-classes", "2"], "not allowed with"),
        (["{text}", "--detector", SSD], "expected weights in"),
    ],
)
def test_mistakes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    out = tmp_path / "model.safetensors"
    assert run(*(a.format(source=source, text=text) for a in arguments), "--out", out) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.startswith("detops: ") and err.count("\n") == 1
    assert not out.exists()


def test_the_output_is_a_safetensors_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--detector", SSD, "--out", "model.pth") == 2
    assert "--out model.pth: expected a name that ends in .safetensors" in capsys.readouterr().err
