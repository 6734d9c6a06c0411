"""Real data sets, where they are at hand."""

from collections import Counter

import pytest
import torch
from shared_data import shared_data

from detops import data
from detops.data.coco import CocoDataset


def test_blood_cells() -> None:
    spec = f"voc:{shared_data('bccd') / 'BCCD'}"
    parts = [data.open(spec, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [205, 87, 72]
    assert parts[0].classes == parts[2].classes == ("Platelets", "RBC", "WBC")
    sizes = torch.cat([part.box_sizes() for part in parts])
    assert len(sizes) == 4888 - 2
    assert sizes[:, 2:].unique(dim=0).tolist() == [[640, 480]]
    problems = [problem for part in parts for problem in part.problems]
    assert [problem.where.rpartition("_")[2].partition(":")[0] for problem in problems] == ["00343.xml", "00338.xml"]
    assert all("has no area" in problem.what for problem in problems)
    image, target = parts[1][0]
    assert image.shape == (3, 480, 640)
    assert len(target["boxes"]) > 5


def test_photographs() -> None:
    folder = shared_data("coco_ccby")
    dataset = data.open(f"coco:{folder / 'images'},{folder / 'instances_a.json'}", "all")
    assert (len(dataset), len(dataset.classes), list(dataset.problems)) == (64, 80, [])
    assert dataset.classes[:2] == ("person", "bicycle")
    targets = {dataset.ids[i]: dataset[i] for i in range(0, 64, 3)}
    for image, target in targets.values():
        assert image.shape[0] == 3
        assert (image.shape[1], image.shape[2]) == target["boxes"].canvas_size
    numbers = [(len(dataset[i][1]["boxes"]), int(dataset[i][1]["iscrowd"].sum())) for i in range(64)]
    assert tuple(map(sum, zip(*numbers, strict=True))) == (647, 10)
    assert [n for n, _ in numbers].count(0) == 2


def test_masks_of_photographs_fill_their_boxes() -> None:
    pytest.importorskip("faster_coco_eval")
    folder = shared_data("coco_ccby")
    for name in ("instances_a.json", "instances_b_from_panoptic.json"):
        dataset = CocoDataset(folder / "images", folder / name, masks=True)
        for i in range(0, len(dataset), 10):
            target = dataset[i][1]
            for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].tolist(), strict=True):
                rows, columns = mask.nonzero().unbind(1)
                found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert torch.tensor(found).sub(torch.tensor([x1, y1, x2, y2])).abs().max() <= 3


def test_nuclei() -> None:
    spec = f"folder:{shared_data('nuclei256')}"
    train, val = (data.open(spec, split, task="segment") for split in ("train", "val"))
    assert (len(train), len(val)) == (144, 16)
    assert not [*train.problems, *val.problems]
    image, mask = val[0]
    assert (image.shape, mask.shape, mask.unique().tolist()) == ((3, 256, 256), (256, 256), [0, 1])


def test_sign_digits() -> None:
    spec = f"folder:{shared_data('signdigits')}"
    train, val = (data.open(spec, split, task="classify") for split in ("train", "val"))
    assert train.classes == tuple("0123456789")
    assert len(train) + len(val) == 520
    assert set(Counter(val[i][1] for i in range(len(val)))) == set(range(10))
    assert not [*train.problems, *val.problems]
    assert train[0][0].shape == (3, 100, 100)
