"""Tables, plots and the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("faster_coco_eval")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from rich.console import Console

from detops.evaluation import ClassificationEvaluator, CocoEvaluator, SegmentationEvaluator, VocEvaluator, report


def detections(kind: Any, classes: Any) -> Any:
    """An evaluator of two images; the last class has no objects."""
    evaluator = kind(classes)
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 90.0, 90.0]])
    labels = torch.arange(2)
    for number in range(2):
        found = {"boxes": boxes + number, "labels": labels, "scores": torch.tensor([0.9, 0.8])}
        evaluator.update({"image_id": number, "boxes": boxes, "labels": labels}, found)
    return evaluator


def confusion(kind: Any) -> Any:
    evaluator = kind(("<a>", "b"))
    if kind is ClassificationEvaluator:
        evaluator.update(0, torch.tensor([1.0, 0.0]))
    else:
        evaluator.update(torch.zeros(2, 2), torch.eye(2))
    return evaluator


@pytest.mark.parametrize(
    ("evaluator", "pictures"),
    [
        (detections(CocoEvaluator, ("<a>", "b", "c")), ["ap_by_class", "ap_by_size", "precision_recall"]),
        (
            detections(CocoEvaluator, [f"class {i}" for i in range(30)]),
            ["ap_by_class", "ap_by_size", "precision_recall"],
        ),
        (detections(VocEvaluator, ("<a>", "b", "c")), ["precision_recall"]),
        (confusion(ClassificationEvaluator), ["confusion"]),
        (confusion(SegmentationEvaluator), ["confusion"]),
        (CocoEvaluator(("<a>",)), []),
    ],
)
def test_files(tmp_path: Path, evaluator: Any, pictures: list[str]) -> None:
    metrics = evaluator.compute()
    folder = tmp_path / "new"
    files = report.write(folder, metrics, {"model": "<x> & y"}, with_plots=True)
    assert sorted(folder.iterdir()) == sorted(files)
    assert sorted(file.stem for file in files if file.suffix == ".png") == pictures
    for file in files:
        assert file.suffix != ".png" or file.read_bytes().startswith(b"\x89PNG")
    content = json.loads((folder / "metrics.json").read_text())
    name, value = metrics.main
    assert content["main"] == name
    assert content["metrics"][name] == (None if np.isnan(value) else value)
    assert content["about"] == {"model": "<x> & y"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == len(pictures)
    assert "&lt;x&gt; &amp; y" in text
    assert "<a>" not in text and "<x>" not in text
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)


def test_json_alone(tmp_path: Path) -> None:
    files = report.write(tmp_path, confusion(ClassificationEvaluator).compute(), {}, with_plots=False)
    assert files == [tmp_path / "metrics.json"]


def test_table() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.rich_table(detections(CocoEvaluator, ("[bold]", "b", "c")).compute()))
    lines = [line.split() for line in capture.get().splitlines() if line.strip()]
    assert lines[0] == ["class", "AP", "AP50", "objects", "detections"]
    assert lines[2][0] == "[bold]"
    assert lines[4] == ["c", "-", "-", "0", "0"]
    assert lines[-1][0] == "all"
