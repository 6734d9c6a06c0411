"""Pascal VOC's metrics: by hand, against the devkit's algorithm written out, and against published numbers."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_data import shared_data

from detops.evaluation import VocEvaluator

BOX = [10.0, 10.0, 50.0, 50.0]
NEAR = [12.0, 10.0, 52.0, 50.0]
FAR = [100.0, 100.0, 140.0, 140.0]


def target(image_id: int | str, boxes: Any, labels: Any, difficult: Any = None) -> dict[str, Any]:
    labels = torch.as_tensor(labels, dtype=torch.int64)
    flags = torch.zeros(len(labels), dtype=torch.bool) if difficult is None else torch.as_tensor(difficult)
    return {"image_id": image_id, "boxes": _boxes(boxes), "labels": labels, "difficult": flags}


def found(boxes: Any, labels: Any, scores: Any) -> dict[str, torch.Tensor]:
    return {
        "boxes": _boxes(boxes),
        "labels": torch.as_tensor(labels, dtype=torch.int64),
        "scores": torch.as_tensor(scores, dtype=torch.float64),
    }


def _boxes(boxes: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(boxes, dtype=np.float64).reshape(-1, 4))


def ap_of(images: list[Any], **options: Any) -> float:
    evaluator = VocEvaluator("a", **options)
    for truth, detections in images:
        evaluator.update(truth, detections)
    return evaluator.compute().main[1]


def test_area_and_eleven_points() -> None:
    """Hit, miss, hit of four objects: precisions 1 and 2/3 at recalls 1/4 and 1/2."""
    images = [
        (
            target(1, [BOX, FAR, [200, 0, 220, 20], [300, 0, 320, 20]], [0] * 4),
            found([BOX, [0, 90, 9, 99], FAR], [0] * 3, [0.9, 0.8, 0.7]),
        )
    ]
    assert ap_of(images) == pytest.approx(1 / 4 + 2 / 3 / 4)
    assert ap_of(images, eleven_points=True) == pytest.approx((3 + 3 * 2 / 3) / 11)


def test_a_recall_of_three_tenths_reaches_the_point_three_tenths() -> None:
    boxes = [[100 * i, 0, 100 * i + 50, 50] for i in range(10)]
    images = [(target(1, boxes, [0] * 10), found(boxes[:3], [0] * 3, [0.9, 0.8, 0.7]))]
    assert ap_of(images, eleven_points=True) == pytest.approx(4 / 11)


def test_an_object_is_found_once_by_the_best_detection() -> None:
    images = [(target(1, [BOX], [0]), found([BOX, NEAR], [0, 0], [0.5, 0.9]))]
    assert ap_of(images) == 1
    assert ap_of([(target(1, [BOX, FAR], [0, 0]), images[0][1])]) == 0.5


def test_a_detection_takes_the_object_that_it_overlaps_most_or_none() -> None:
    """Both detections overlap BOX most; the second is a miss although NEAR is free."""
    images = [(target(1, [BOX, NEAR], [0, 0]), found([BOX, [10, 10, 51, 50]], [0, 0], [0.9, 0.8]))]
    assert ap_of(images) == 0.5


def test_difficult_objects_do_not_count() -> None:
    truth = target(1, [BOX, FAR], [0, 0], [False, True])
    evaluator = VocEvaluator("ab")
    evaluator.update(truth, found([FAR, FAR, BOX], [0, 0, 0], [0.9, 0.8, 0.7]))
    metrics = evaluator.compute()
    assert metrics.main == ("mAP", 1)
    assert metrics.table().rows == [
        ("a", "1.000", "1", "1", "3"),
        ("b", "-", "0", "0", "0"),
        ("all", "1.000", "1", "1", "3"),
    ]


def test_other_classes_and_images_do_not_match() -> None:
    evaluator = VocEvaluator("ab")
    evaluator.update(target(1, [BOX], [0]), found([BOX], [1], [0.9]))
    evaluator.update(target(2, [], []), found([BOX], [0], [0.9]))
    assert evaluator.compute().main[1] == 0


def test_nothing_at_all() -> None:
    assert math.isnan(VocEvaluator("ab").compute().main[1])
    assert ap_of([(target(1, [BOX], [0]), found([], [], []))]) == 0


@pytest.mark.parametrize("eleven_points", [False, True])
def test_the_devkit(eleven_points: bool) -> None:
    """Random images of two classes with many equal scores, in two processes and out of order."""
    random = np.random.default_rng(0)
    images = [_random_image(random, number) for number in range(40)]
    first, second = (VocEvaluator("ab", eleven_points=eleven_points, last_pixel=True) for _ in range(2))
    for number in reversed(range(40)):
        (first, second)[number % 2].update(*images[number])
    first.merge([pickle.loads(pickle.dumps(second))])
    metrics = first.compute()
    for label in (0, 1):
        expected = _devkit(images, label, eleven_points)
        assert 0.05 < expected < 0.95
        assert metrics.classes[label].ap == pytest.approx(expected, rel=1e-12)


def _random_image(random: np.random.Generator, number: int) -> Any:
    n, d = random.integers(0, 6), random.integers(0, 8)
    corners = random.integers(0, 30, (n, 2))
    boxes = np.concatenate([corners, corners + random.integers(5, 30, (n, 2))], axis=1)
    detections = np.empty((d, 4))
    for row in range(d):
        near = boxes[random.integers(n)] if n and random.random() < 0.7 else np.array([0, 0, 20, 20])
        detections[row] = near + random.integers(-2, 3, 4)
    truth = target(number, boxes, random.integers(0, 2, n), random.random(n) < 0.2)
    return truth, found(detections, random.integers(0, 2, d), random.integers(1, 10, d) / 10)


def _devkit(images: list[Any], label: int, eleven_points: bool) -> float:
    """VOCevaldet.m and VOCap.m, line by line."""
    objects = [
        [
            (box.tolist(), bool(hard))
            for box, own, hard in zip(t["boxes"], t["labels"], t["difficult"], strict=True)
            if own == label
        ]
        for t, _ in images
    ]
    positives = sum(not hard for rows in objects for _, hard in rows)
    ranked = [
        (float(score), image, box.tolist())
        for image, (_, f) in enumerate(images)
        for score, own, box in zip(f["scores"], f["labels"], f["boxes"], strict=True)
        if own == label
    ]
    # Within an image the devkit ranks equal scores as they come; so do we.
    ranked.sort(key=lambda row: -row[0])
    taken, tp, fp = set(), [], []
    for _, image, box in ranked:
        best, where = -math.inf, -1
        for j, (other, _) in enumerate(objects[image]):
            iw = min(box[2], other[2]) - max(box[0], other[0]) + 1
            ih = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if iw > 0 and ih > 0:
                areas = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other))
                if iw * ih / (areas - iw * ih) > best:
                    best, where = iw * ih / (areas - iw * ih), j
        if best >= 0.5:
            if objects[image][where][1]:
                continue
            hit = (image, where) not in taken
            taken.add((image, where))
        else:
            hit = False
        tp.append(hit)
        fp.append(not hit)
    recall = np.cumsum(tp) / positives
    precision = np.cumsum(tp) / (np.cumsum(fp) + np.cumsum(tp))
    if eleven_points:
        return sum(max(precision[recall >= t - 1e-9], default=0) for t in np.arange(11) / 10) / 11
    mrec, mpre = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


def test_numbers_of_object_detection_metrics() -> None:
    """The example that its README works out: 26.84 % with eleven points, else 24.56 %, at IoU 0.3."""
    folder = shared_data("voc_eval") / "rafaelpadilla"
    images = []
    for file in sorted((folder / "groundtruths").glob("*.txt")):
        truth, rows = _rows(file), _rows(folder / "detections" / file.name)
        images.append(
            (target(file.stem, _ends(truth), [0] * len(truth)), found(_ends(rows[:, 1:]), [0] * len(rows), rows[:, 0]))
        )
    assert len(images) == 7
    options = {"iou_threshold": 0.3, "last_pixel": True}
    assert ap_of(images, eleven_points=True, **options) == pytest.approx(0.2684, abs=5e-5)
    assert ap_of(images, **options) == pytest.approx(0.2456, abs=1e-4)


def _rows(file: Path) -> np.ndarray:
    return np.array([[float(word) for word in line.split()[1:]] for line in file.read_text().splitlines() if line])


def _ends(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
