"""Data sets in COCO's format, sound and faulty."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchvision", reason="data sets are read with torchvision")

import torch

from detops import data
from detops._errors import UserError
from detops.data.coco import CocoDataset

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 3, "bbox": [2, 3, 10, 5], "area": 40, "iscrowd": 0} | changes


@pytest.fixture
def make(tmp_path: Path, write_picture):
    """Writes images/1.png and 2.png of 30 x 20 and a.json; returns the spec."""

    def write(annotations: list[Any], *, images: list[Any] | None = None, categories: Any = CATEGORIES) -> str:
        for name in ("1.png", "2.png"):
            write_picture(tmp_path / "images" / name, 20, 30)
        if images is None:
            images = [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (1, 2)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return f"coco:{tmp_path / 'images'},{tmp_path / 'a.json'}"

    return write


def test_targets(make) -> None:
    dataset = data.open(
        make([annotation(1), annotation(2, category_id=7, iscrowd=1, bbox=[0.5, 0, 4, 20], area=None)]), "all"
    )
    assert dataset.classes == ("cat", "dog")  # in the order of ids
    assert (list(dataset.ids), len(dataset), list(dataset.problems)) == ([1, 2], 2, [])
    image, target = dataset[0]
    assert image[:, 5, 9].tolist() == [5, 9, 7]
    assert target["boxes"].tolist() == [[2, 3, 12, 8], [0.5, 0, 4.5, 20]]
    assert target["boxes"].canvas_size == (20, 30)
    assert target["labels"].tolist() == [0, 1]
    assert target["iscrowd"].tolist() == [False, True]
    assert target["difficult"].tolist() == [False, False]
    assert target["area"].tolist() == [40, 80]  # as annotated, else of the box
    assert target["image_id"] == 1
    empty = dataset[1][1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64
    assert dataset.name(1).endswith("2.png")
    assert dataset.box_sizes().tolist() == [[10, 5, 30, 20]]  # not of the crowd
    assert data.training_target(target)["boxes"].tolist() == [[2, 3, 12, 8]]


def test_classes_of_a_model(make) -> None:
    spec = make([annotation(1), annotation(2, category_id=7)])
    dataset = data.open(spec, "all", classes=("bird", "dog"))
    assert dataset.classes == ("bird", "dog")
    assert dataset[0][1]["labels"].tolist() == [1]
    assert [problem.what for problem in dataset.problems] == ["unknown class 'cat'; left out"]


@pytest.mark.parametrize(
    ("changes", "what", "boxes"),
    [
        ({"bbox": [2, 3, 0, 5]}, "box (2.0, 3.0, 2.0, 8.0) has no area; left out", 0),
        ({"bbox": [2, 3, 4, -5]}, "has no area", 0),
        ({"bbox": [2, float("nan"), 4, 5]}, "has no area", 0),
        ({"bbox": [30, 3, 4, 5]}, "box (30.0, 3.0, 34.0, 8.0) lies outside its image of 30 x 20 pixels; left out", 0),
        ({"bbox": [25, 3, 10, 5]}, "reaches out of its image of 30 x 20 pixels; clipped", 1),
        ({"bbox": [1, 2, 3]}, "expected numbers bbox [x, y, width, height], got [1, 2, 3]; left out", 0),
        ({"bbox": None}, "expected numbers bbox", 0),
        ({"bbox": [2, 3, 10**400, 5]}, "expected numbers bbox", 0),
        ({"area": float("nan")}, "area nan; that of its box counts", 1),
        ({"area": -1}, "area -1; that of its box counts", 1),
        ({"area": "large"}, "area 'large'; that of its box counts", 1),
        ({"iscrowd": "0"}, "iscrowd '0', expected 0 or 1; left out", 0),
        ({"category_id": 1}, "there is no category 1; left out", 0),
        ({"image_id": 99}, "there is no image 99; left out", 0),
        ({"id": 1}, "another has the same id; both taken", 1),
    ],
)
def test_faulty_annotations_are_reported(make, changes: dict[str, Any], what: str, boxes: int) -> None:
    spec = make([annotation(1), annotation(2, **changes)])
    dataset = data.open(spec, "all")
    assert len(dataset[0][1]["boxes"]) == 1 + boxes
    assert not dataset[0][1]["iscrowd"].any()
    assert bool((dataset[0][1]["area"] > 0).all())
    (problem,) = dataset.problems
    assert what in problem.what
    assert problem.where.endswith(f"a.json: annotation {changes.get('id', 2)}")
    with pytest.raises(UserError, match=r"a\.json: annotation "):
        data.open(spec, "all", strict=True)


@pytest.mark.parametrize("field", ["image_id", "category_id", "bbox"])
def test_missing_fields_are_reported(make, field: str) -> None:
    incomplete = annotation(2)
    del incomplete[field], incomplete["id"]
    (problem,) = data.open(make([annotation(1), incomplete, "text"][:2]), "all").problems
    assert str(problem).endswith(f"a.json: annotation number 2: it has no {field}; left out")


def test_what_is_not_a_record_is_reported(make) -> None:
    dataset = data.open(make([annotation(1), "text", None]), "all")
    assert [problem.where.rpartition(": ")[2] for problem in dataset.problems] == [
        "annotation number 2",
        "annotation number 3",
    ]


def test_rounding_goes_without_a_word(make) -> None:
    dataset = data.open(make([annotation(1, bbox=[-0.2, 3, 30.4, 17.3])]), "all")
    assert dataset[0][1]["boxes"].tolist() == [[0, 3, 30, 20]]
    assert not dataset.problems


def test_faulty_images_are_reported(make, tmp_path: Path) -> None:
    size = {"height": 20, "width": 30}
    images = [
        {"id": 1, "file_name": "1.png"} | size,
        {"id": 1, "file_name": "2.png"} | size,
        {"id": 3, "file_name": "missing.png"} | size,
        {"id": 4, "file_name": "text.png"} | size,
        {"id": 5, "file_name": "2.png", "height": 30, "width": 20},
        {"id": 6},
        {"file_name": "2.png"},
    ]
    spec = make([annotation(1), annotation(2, image_id=5, bbox=[0, 0, 20, 25])], images=images)
    (tmp_path / "images" / "text.png").write_text("not a picture")
    dataset = data.open(spec, "all")
    assert list(dataset.ids) == [1, 5]
    assert dataset[1][1]["boxes"].tolist() == [[0, 0, 20, 20]]  # the picture's own size counts
    found = "\n".join(map(str, dataset.problems))
    for message in (
        "a.json: image 1: another has the same id; left out",
        "missing.png: no such file; left out",
        "text.png: not a picture (unknown format); left out",
        "2.png: a picture of 30 x 20 pixels, annotated as of 20 x 30 pixels",
        "(image 6 of a.json has no file_name): no such file; left out",
        "a.json: image number 7: it has no id; left out",
    ):
        assert message in found
    assert len(dataset.problems) == 7  # and the box that is clipped


def test_a_picture_under_two_ids_is_reported(make) -> None:
    dataset = data.open(make([], images=[{"id": i, "file_name": "1.png"} for i in (1, 2)]), "all")
    assert list(dataset.ids) == [1, 2]
    (problem,) = dataset.problems
    assert str(problem).endswith("a.json: image 2: the same file as of image 1, 1.png; both taken")


def test_same_names_are_one_class(make) -> None:
    dataset = data.open(make([annotation(1, category_id=9)], categories=[*CATEGORIES, {"id": 9, "name": "cat"}]), "all")
    assert dataset.classes == ("cat", "dog")
    assert dataset[0][1]["labels"].tolist() == [0]
    assert [problem.what for problem in dataset.problems] == ["another is called 'cat'; taken as the same"]


def test_nothing_of_use_is_an_error(make, tmp_path: Path) -> None:
    file, images = tmp_path / "a.json", tmp_path / "images"
    spec = make([annotation(1)])
    for content, message in (
        ('{"images": [\n1,,]}', r"a\.json:2: not JSON: .* at column"),
        ('{"images": [1' + 5000 * "0" + "]}", r"a\.json: not JSON: Exceeds the limit"),
        ("[]", "expected COCO instances in"),
        ('{"images": [], "annotations": []}', "lists images, annotations, categories"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "expected categories in .* found none"),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}), "expected images in .* found none"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            data.open(spec, "all")
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        data.open(f"coco:{images},{tmp_path / 'none.json'}", "all")
    with pytest.raises(UserError, match="expected a folder of images, found none"):
        data.open(f"coco:{tmp_path / 'none'},{file}", "all")


def test_a_tenth_is_held_out(tmp_path: Path, write_picture) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(20)]
    for image in images:
        write_picture(tmp_path / "images" / str(image["file_name"]), 4, 4)
    content = {"images": images, "annotations": [], "categories": CATEGORIES}
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path / 'images'},{tmp_path / 'a.json'}"
    train, val = (set(data.open(spec, split).ids) for split in ("train", "val"))
    assert len(val) == 2
    assert train == set(range(20)) - val
    assert any(set(data.open(spec, "val", seed=seed).ids) != val for seed in range(1, 4))
    with pytest.raises(UserError, match="expected split train, val or all"):
        data.open(spec, "test")


@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "images"])
def test_the_layout_of_the_original(tmp_path: Path, write_picture, folder: str) -> None:
    write_picture(tmp_path / folder / "1.png", 20, 30)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(UserError, match=r"instances_val\*\.json in .*, found none"):
        data.open(f"coco:{tmp_path}", "val")
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [annotation(1)],
        "categories": CATEGORIES,
    }
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    dataset = data.open(f"coco:{tmp_path}", "val")
    assert dataset[0][1]["boxes"].tolist() == [[2, 3, 12, 8]]


def test_masks_of_polygons_and_run_lengths(make, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    runs = [20 * 4 + 3, 5, *[15, 5] * 9]  # down the columns from 4 to 13, rows 3 to 7
    runs.append(20 * 30 - sum(runs))
    shapes = [
        [[2, 3, 12, 3, 12, 8, 2, 8]],
        [[2, 3, 6, 3, 6, 8, 2, 8], [8, 3, 12, 3, 12, 8, 8, 8]],
        {"size": [20, 30], "counts": runs},
        None,
    ]
    make([annotation(i, segmentation=shape) for i, shape in enumerate(shapes)])
    dataset = CocoDataset(tmp_path / "images", tmp_path / "a.json", masks=True)
    masks = dataset[0][1]["masks"]
    assert (masks.dtype, masks.shape) == (torch.bool, (4, 20, 30))
    assert masks.sum((1, 2)).tolist() == [50, 40, 50, 0]
    assert bool(masks[0, 3:8, 2:12].all())
    assert bool(masks[2, 3:8, 4:14].all())
    assert dataset[-1][1]["masks"].shape == (0, 20, 30)
    make([annotation(1, segmentation={"size": [10, 30], "counts": [300]})])
    with pytest.raises(data.ReadError, match=r"1\.png: it has a segmentation that is none"):
        CocoDataset(tmp_path / "images", tmp_path / "a.json", masks=True)[0]
