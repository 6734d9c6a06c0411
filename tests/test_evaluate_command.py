"""``detops evaluate``, on the embedded data set and on pictures that the test writes."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("faster_coco_eval")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from PIL import Image

from detops import cli, model_file
from detops._errors import UserError
from detops.commands import evaluate
from detops.evaluation import ClassificationEvaluator
from detops.model_file import ModelConfig

DIGITS = tuple(str(digit) for digit in range(10))
CONFIG = ModelConfig("detect", "retinanet_resnet50_fpn", DIGITS, {"backbone": "resnet10t", "min_size": 64})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model_file.save(path, CONFIG.build(), CONFIG)
    return path


def run(weights: Path, *arguments: object) -> int:
    return cli.main(["evaluate", "--weights", str(weights), "--device", "cpu", *map(str, arguments)])


@pytest.mark.parametrize("metric", ["coco", "voc07", "voc12"])
def test_table_and_metrics(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    assert run(weights, "--data", "digits:length=20,size=128", "--metric", metric, "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert err == ""
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["main"] == {"coco": "AP"}.get(metric, "mAP")
    assert 0 <= metrics["metrics"][metrics["main"]] < 0.5
    assert metrics["about"]["images"] == "4"
    (heading,) = (line.split() for line in out.splitlines() if line.split()[:1] == ["class"])
    (total,) = (line.split() for line in out.splitlines() if line.split()[:1] == ["all"])
    assert int(total[heading.index("objects")]) > 4
    assert {line.split()[0] for line in out.splitlines() if line.strip()} >= set(DIGITS)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["metrics.json"]


def test_plots(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run(weights, "--data", "digits:length=10,size=128", "--plots", "--out", tmp_path) == 0
    assert {"metrics.json", "report.html", "precision_recall.png"} <= {file.name for file in tmp_path.iterdir()}


def test_an_unreadable_image_is_reported(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The header is whole, so that opening the data set finds nothing."""
    (tmp_path / "images").mkdir()
    for name in ("good", "bad"):
        Image.linear_gradient("L").save(tmp_path / "images" / f"{name}.png")
    bad = tmp_path / "images" / "bad.png"
    bad.write_bytes(bad.read_bytes()[:200])
    box = {"bbox": [10, 10, 90, 90], "category_id": 3, "iscrowd": 0, "area": 8100}
    content = {
        "images": [
            {"id": i, "file_name": f"{n}.png", "width": 256, "height": 256} for i, n in ((1, "good"), (2, "bad"))
        ],
        "categories": [{"id": 3, "name": "7"}],
        "annotations": [{"id": i, "image_id": i, **box} for i in (1, 2)],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    data = f"coco:{tmp_path / 'images'},{tmp_path / 'all.json'}"
    assert run(weights, "--data", data, "--split", "all") == 1
    out, err = capsys.readouterr()
    assert f"{bad}: broken picture" in err
    assert any(line.split()[:1] == ["7"] and line.split()[3] == "1" for line in out.splitlines())
    assert run(weights, "--data", data, "--split", "all", "--strict") == 2
    assert "broken picture" in capsys.readouterr().err
    bad.unlink()  # opening the data set finds that
    assert run(weights, "--data", data, "--split", "all") == 1
    assert f"{bad}: no such file; left out" in capsys.readouterr().err


def test_a_metric_is_of_detectors() -> None:
    config = ModelConfig("classify", "resnet18", ("cat", "dog"))
    with pytest.raises(UserError, match="--metric voc07: expected a detector, got a model to classify"):
        evaluate._evaluator(config, "voc07")
    assert isinstance(evaluate._evaluator(config, None), ClassificationEvaluator)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing"], "got 'nothing'"),
        (["--data", "digits", "--plots"], "evaluate: --plots: expected --out DIR"),
        (["--data", "digits", "--split", "north"], "north"),
        (["--data", "digits", "--out", "/dev/null/x"], "evaluate: --out /dev/null/x: expected a folder to write to"),
        (["--data", "digits", "--num-workers", "-1"], "--num-workers: expected a whole number of at least 0"),
    ],
)
def test_mistakes(weights: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(weights, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("detops: ") and err.count("\n") == 1
