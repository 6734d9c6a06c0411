"""COCO's metrics: a case worked out by hand, what is ignored, and pycocotools' numbers on real detections."""

import json
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from shared_data import shared_data

pytest.importorskip("faster_coco_eval")

from detops._errors import UserError
from detops.evaluation import CocoEvaluator, CocoMetrics

BOX = [10.0, 10.0, 50.0, 50.0]
FAR = [100.0, 100.0, 140.0, 140.0]
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}


def target(image_id: int | str, boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, Any]:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    flags = {name: torch.tensor(values) for name, values in more.items()}
    return {"image_id": image_id, "boxes": corners, "labels": torch.tensor(labels, dtype=torch.int64), **flags}


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> dict[str, torch.Tensor]:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": corners, "labels": torch.tensor(labels, dtype=torch.int64), "scores": torch.tensor(scores)}


def computed(*images: tuple[dict[str, Any], dict[str, torch.Tensor]], classes: str = "ab") -> CocoMetrics:
    evaluator = CocoEvaluator(classes)
    for truth, detections in images:
        evaluator.update(truth, detections)
    return evaluator.compute()


def test_worked_out_by_hand() -> None:
    """Class a: one of two objects, after a false alarm. Class b: false alarms, and an object not found."""
    metrics = computed(
        (target(7, [BOX, BOX], [0, 1]), found([BOX, FAR], [0, 0], [0.8, 0.9])),
        (target(9, [FAR], [0]), found([[10, 10, 42, 50]], [1], [0.5])),
        (target(8, [], []), found([[14, 14, 54, 54]], [1], [0.3])),
    )
    # Recalls 0 to 0.5 of a, 51 of 101, have a precision of one half; of b no detection is in the object's image.
    assert metrics.summary["AP50"] == pytest.approx(51 / 101 * 0.5 / 2)
    assert metrics.classes[0].ap == pytest.approx(51 / 101 * 0.5)
    assert [(one.name, one.objects, one.detections) for one in metrics.classes] == [("a", 2, 2), ("b", 1, 2)]
    assert metrics.main == ("AP", metrics.summary["AP"])
    assert metrics.objects == (3, 0, 3, 0)


def test_a_box_of_iou_064_counts_at_three_thresholds() -> None:
    metrics = computed((target(1, [[0, 0, 50, 50]], [0]), found([[0, 0, 50, 32]], [0], [0.5])))
    assert metrics.summary["AP"] == pytest.approx(0.3)
    assert (metrics.summary["AP50"], metrics.summary["AP75"]) == (1, 0)
    assert metrics.summary["APm"] == metrics.summary["AP"]
    assert math.isnan(metrics.summary["APs"]) and math.isnan(metrics.classes[1].ap)
    assert metrics.table().rows[1][:3] == ("b", "-", "-")
    assert metrics.by_size(0)[1] == 1


@pytest.mark.parametrize("flag", ["iscrowd", "difficult"])
def test_what_lies_in_an_ignored_object_is_neither_right_nor_wrong(flag: str) -> None:
    truth = target(1, [BOX, FAR], [0, 0], **{flag: [False, True]})
    metrics = computed((truth, found([BOX, FAR, FAR], [0, 0, 0], [0.5, 0.9, 0.8])))
    assert metrics.summary["AP"] == 1
    assert metrics.classes[0].objects == 1


def test_the_area_of_the_data_set_says_how_large_an_object_is() -> None:
    metrics = computed((target(1, [BOX], [0], area=[1000.0]), found([BOX], [0], [0.5])))
    assert metrics.summary["APs"] == 1
    assert math.isnan(metrics.summary["APm"])
    assert metrics.objects == (1, 1, 0, 0)


@pytest.mark.parametrize("images", [[], [(target(1, [], []), NONE)], [(target(1, [], []), found([BOX], [0], [0.5]))]])
def test_without_objects_there_is_no_ap(images: list[Any]) -> None:
    metrics = computed(*images)
    assert all(math.isnan(value) for value in metrics.summary.values())
    assert [row[1] for row in metrics.table().rows] == ["-", "-", "-"]


def test_without_detections_it_is_zero() -> None:
    assert computed((target("x", [BOX], [0]), NONE)).summary["AP"] == 0


def test_neither_order_nor_processes_matter() -> None:
    """All scores are equal: which comes first is the images' doing."""
    images = [(target(i, [BOX], [0]), found([BOX if i % 3 else FAR], [0], [0.5])) for i in range(9)]
    whole = computed(*images)
    first, second = CocoEvaluator("ab"), CocoEvaluator("ab")
    for truth, detections in reversed(images[::2]):
        first.update(truth, detections)
    for truth, detections in images[1::2]:
        second.update(truth, detections)
    first.merge([pickle.loads(pickle.dumps(second))])
    merged = first.compute()
    np.testing.assert_array_equal(merged.precision, whole.precision)
    assert {k: v for k, v in merged.as_dict().items() if not math.isnan(v)} == {
        k: v for k, v in whole.as_dict().items() if not math.isnan(v)
    }


def test_refuses_an_image_twice_and_unknown_labels() -> None:
    evaluator = CocoEvaluator("ab")
    evaluator.update(target(1, [], []), NONE)
    other = pickle.loads(pickle.dumps(evaluator))
    with pytest.raises(ValueError, match="each image once, got 1 twice"):
        evaluator.update(target(1, [], []), NONE)
    with pytest.raises(ValueError, match="each image once"):
        evaluator.merge([other])
    with pytest.raises(ValueError, match="labels from 0 to 1, got 2 to 2"):
        evaluator.update(target(2, [BOX], [2]), NONE)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"need faster-coco-eval: pip install \"detops\[training\]\""):
        CocoEvaluator("ab")


def test_numbers_of_pycocotools() -> None:
    folder = shared_data("coco_eval")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "results" / "instances_val2014_fakebbox100_results.json").read_text())
    expected = json.loads((folder / "expected_pycocotools_2.0.11.json").read_text())
    metrics = _evaluated(truth, results)
    # The last bit of a mean depends on the order of its terms.
    assert list(metrics.summary.values()) == pytest.approx(expected["bbox"], rel=4e-16, abs=0)
    by_class = [ap if ap >= 0 else math.nan for ap in expected["bbox_per_category_AP"].values()]
    assert [one.ap for one in metrics.classes] == pytest.approx(by_class, rel=4e-16, abs=0, nan_ok=True)


def _evaluated(truth: dict[str, Any], results: list[dict[str, Any]]) -> CocoMetrics:
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    label = {category["id"]: number for number, category in enumerate(categories)}
    evaluator = CocoEvaluator([category["name"] for category in categories])
    for image in truth["images"]:
        objects = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        detections = [one for one in results if one["image_id"] == image["id"]]
        labels, found_labels = ([label[one["category_id"]] for one in rows] for rows in (objects, detections))
        flags = {name: [one[name] for one in objects] for name in ("iscrowd", "area")}
        evaluator.update(
            target(image["id"], _corners(objects), labels, **flags),
            found(_corners(detections), found_labels, [one["score"] for one in detections]),
        )
    return evaluator.compute()


def _corners(rows: list[dict[str, Any]]) -> list[list[float]]:
    return [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
