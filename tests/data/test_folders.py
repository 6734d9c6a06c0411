"""Data sets that are folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detops import data
from detops._errors import UserError


def write_labels(path: Path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(path)


def test_classes_in_splits(tmp_path: Path, write_picture) -> None:
    for place in ("train/dog/1.png", "train/cat/1.png", "train/cat/2.jpg", "val/dog/1.png", "val/cat/1.png"):
        write_picture(tmp_path / place)
    train = data.open(f"folder:{tmp_path}", "train", task="classify")
    assert train.classes == ("cat", "dog")
    assert [(Path(train.name(i)).name, train[i][1]) for i in range(len(train))] == [
        ("1.png", 0),
        ("2.jpg", 0),
        ("1.png", 1),
    ]
    assert train[0][0].shape == (3, 20, 30)
    val = data.open(f"folder:{tmp_path}", "val", task="classify", classes=("dog", "cat"))
    assert [val[i][1] for i in range(len(val))] == [1, 0]
    with pytest.raises(UserError, match=r"expected a folder of classes, found none at .*test"):
        data.open(f"folder:{tmp_path}", "test", task="classify")


def test_a_tenth_of_each_class_is_held_out(tmp_path: Path, write_picture) -> None:
    for name in ("car", "train"):  # a class may be called so
        for i in range(20):
            write_picture(tmp_path / name / f"{i}.png", 4, 4)
    names = {}
    for split in ("train", "val", "all"):
        dataset = data.open(f"folder:{tmp_path}", split, task="classify")
        assert dataset.classes == ("car", "train")
        names[split] = {dataset.name(i) for i in range(len(dataset))}
        labels = [dataset[i][1] for i in range(len(dataset))]
        assert labels.count(0) == labels.count(1) == {"train": 18, "val": 2, "all": 20}[split]
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == names["all"]


def test_faulty_classes_are_reported(tmp_path: Path, write_picture) -> None:
    write_picture(tmp_path / "train" / "cat" / "1.png")
    write_picture(tmp_path / "val" / "cat" / "1.png")
    write_picture(tmp_path / "val" / "dog" / "1.png")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    (tmp_path / "train" / "cat" / ".hidden").write_text("")
    (tmp_path / "train" / "cat" / "2.png").write_text("not a picture")
    train, val = (data.open(f"folder:{tmp_path}", split, task="classify") for split in ("train", "val"))
    assert (len(train), len(val)) == (1, 1)
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in [*train.problems, *val.problems]] == [
        "train/cat/notes.txt: not a picture by its name; left out",
        "train/cat/2.png: not a picture (unknown format); left out",
        "train/empty: a class without pictures",
        "val/dog: unknown class; its pictures are left out",
    ]
    with pytest.raises(UserError, match=r"notes\.txt"):
        data.open(f"folder:{tmp_path}", "train", task="classify", strict=True)


@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_every_number_above_zero_is_an_object_where_classes_have_no_names(
    tmp_path: Path, write_picture, folder: str
) -> None:
    numbers = np.zeros((20, 30), np.uint16)
    numbers[2:5], numbers[9] = 300, 255
    write_picture(tmp_path / "images" / "a.jpg")
    write_labels(tmp_path / folder / "a.png", numbers)
    dataset = data.open(f"folder:{tmp_path}", "all", task="segment")
    image, mask = dataset[0]
    assert (image.shape, mask.shape, mask.dtype) == ((3, 20, 30), (20, 30), torch.uint8)
    assert mask.tolist() == (numbers > 0).tolist()
    assert dataset.classes == ("background", "object")


def test_named_classes_and_lists(tmp_path: Path, write_picture) -> None:
    numbers = np.zeros((20, 30), np.uint8)
    numbers[2], numbers[3] = 2, 255
    for name in ("a.b", "c", "d"):
        write_picture(tmp_path / "images" / f"{name}.png")
        write_labels(tmp_path / "labels" / f"{name}.png", numbers)
    (tmp_path / "classes.txt").write_text("ground\nroad\nsky\n")
    (tmp_path / "train.txt").write_text("a.b\nd.png\n")
    (tmp_path / "val.txt").write_text("c\n")
    train = data.open(f"folder:{tmp_path}", "train", task="segment")
    assert train.classes == ("ground", "road", "sky")
    assert [Path(train.name(i)).name for i in range(len(train))] == ["a.b.png", "d.png"]
    assert train[1][1].tolist() == numbers.tolist()
    assert len(data.open(f"folder:{tmp_path}", "val", task="segment")) == 1
    with pytest.raises(UserError, match=r"expected a list test\.txt in .*, found those of train, val"):
        data.open(f"folder:{tmp_path}", "test", task="segment")


def test_faulty_labels_are_reported(tmp_path: Path, write_picture) -> None:
    numbers = np.zeros((20, 30), np.uint8)
    for name in ("good.png", "lonely.png", "other_size.png", "good.jpg", "unknown.png"):
        write_picture(tmp_path / "images" / name)
    for name in ("good", "widow", "unknown"):
        write_labels(tmp_path / "labels" / f"{name}.png", numbers + 7 * (name == "unknown"))
    write_labels(tmp_path / "labels" / "other_size.png", numbers.T.copy())
    (tmp_path / "classes.txt").write_text("ground\nroad\n")
    dataset = data.open(f"folder:{tmp_path}", "all", task="segment")
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in dataset.problems] == [
        "images/good.png: good.jpg has the same name; left out",
        "images/lonely.png: no picture of the same name in labels/; left out",
        "labels/other_size.png: of (20, 30) pixels, its image of (30, 20); left out",
        "labels/widow.png: no picture of the same name in images/; left out",
    ]
    assert [Path(dataset.name(i)).stem for i in range(len(dataset))] == ["good", "unknown"]
    with pytest.raises(data.ReadError, match=r"unknown\.png: expected numbers under 2 or 255, got 7"):
        dataset[1]


def test_nothing_of_use_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found none at .*nowhere"):
        data.open(f"folder:{tmp_path}/nowhere", "train", task="classify")
    with pytest.raises(UserError, match="expected pictures in folders of classes in"):
        data.open(f"folder:{tmp_path}", "train", task="classify")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"expected a folder of pictures, found none at .*masks"):
        data.open(f"folder:{tmp_path}", "train", task="segment")
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match=r"expected images and labels in .* found none"):
        data.open(f"folder:{tmp_path}", "train", task="segment")
    (tmp_path / "classes.txt").write_text("only\n")
    with pytest.raises(UserError, match="expected 2 to 255 classes"):
        data.open(f"folder:{tmp_path}", "train", task="segment")
