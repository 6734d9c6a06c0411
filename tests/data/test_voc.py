"""Data sets in PASCAL VOC's format, sound and faulty."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="data sets are read with torchvision")


from detops import data
from detops._errors import UserError

SIZE = "<size><width>30</width><height>20</height><depth>3</depth></size>"


def object_of(name: str, *box: object, more: str = "") -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


@pytest.fixture
def make(tmp_path: Path, write_picture):
    """Writes pictures of 30 x 20 with their annotations, all in the list "train"; returns the spec."""

    def write(objects: dict[str, str], *, size: str = SIZE, split: str = "train") -> str:
        for name, text in objects.items():
            write_picture(tmp_path / "JPEGImages" / f"{name}.png", 20, 30)
            path = tmp_path / "Annotations" / f"{name}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<annotation>\n{size}\n{text}\n</annotation>\n")
        write_list(tmp_path, split, *objects)
        return f"voc:{tmp_path}"

    return write


def write_list(folder: Path, split: str, *lines: str) -> None:
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def test_targets(make) -> None:
    dog = object_of("dog", 3, 4, 12, 8, more="<difficult>1</difficult><part><name>head</name></part>")
    dataset = data.open(make({"a": dog + object_of("cat", 1, 1, 30, "20.0"), "b": ""}), "train")
    assert dataset.classes == ("cat", "dog")
    assert (list(dataset.ids), list(dataset.problems)) == (["a", "b"], [])
    image, target = dataset[0]
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[2, 3, 12, 8], [0, 0, 30, 20]]  # from pixels 1 to 30 to corners
    assert target["labels"].tolist() == [1, 0]
    assert target["difficult"].tolist() == [True, False]
    assert target["iscrowd"].tolist() == [False, False]
    assert target["area"].tolist() == [50, 600]
    assert target["image_id"] == "a"
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert dataset.box_sizes().tolist() == [[30, 20, 30, 20]]
    assert data.training_target(target)["labels"].tolist() == [0]


def test_classes_are_those_of_the_training_list(make, tmp_path: Path) -> None:
    spec = make({"a": object_of("dog", 1, 1, 5, 5)})
    make({"b": object_of("dog", 1, 1, 5, 5) + "\n" + object_of("ant", 1, 1, 5, 5)}, split="val")
    dataset = data.open(spec, "val")
    assert dataset.classes == ("dog",)
    assert [str(problem) for problem in dataset.problems] == [
        f"{tmp_path / 'Annotations' / 'b.xml'}:4: unknown class 'ant'; left out"
    ]
    dataset = data.open(spec, "val", classes=("bee", "ant", "dog"))
    assert dataset[0][1]["labels"].tolist() == [2, 1]
    assert not dataset.problems
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    assert data.open(spec, "val").classes == ("ant", "dog")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (object_of("dog", 9, 9, 9, 9), 4, "dog: box 9, 9, 9, 9 has no area; left out"),
        (object_of("dog", 9, 9, 8, 12), 4, "has no area"),
        (object_of("dog", 41, 1, 50, 5), 4, "lies outside its image of 30 x 20 pixels; left out"),
        (object_of("dog", "x", 1, 5, 5), 4, "expected a number as xmin, got 'x'; left out"),
        (object_of("dog", "nan", 1, 5, 5), 4, "expected a number as xmin, got 'nan'"),
        ("\n<object><name>dog</name></object>", 5, "dog: no bndbox; left out"),
        ("<object/>", 4, "an object without a name; left out"),
    ],
)
def test_faulty_objects_are_reported(make, text: str, line: int, what: str) -> None:
    spec = make({"a": object_of("dog", 1, 1, 5, 5) + "\n" + text})
    dataset = data.open(spec, "train")
    assert len(dataset[0][1]["boxes"]) == 1
    (problem,) = dataset.problems
    assert problem.where.endswith(f"a.xml:{line}")
    assert what in problem.what
    with pytest.raises(UserError, match=rf"a\.xml:{line}: "):
        data.open(spec, "train", strict=True)


def test_names_may_have_spaces(make, tmp_path: Path) -> None:
    spec = make({"a b": "", "c 2": ""})
    write_list(tmp_path, "train", "a b  -1", " c 2")
    assert list(data.open(spec, "train").ids) == ["a b", "c 2"]


def test_a_box_over_the_edge_is_clipped(make) -> None:
    dataset = data.open(make({"a": object_of("dog", 0, 11, 5, 30)}), "train")
    assert dataset[0][1]["boxes"].tolist() == [[0, 10, 5, 20]]
    assert ["reaches out of its image" in problem.what for problem in dataset.problems] == [True]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_the_size_may_be_missing(make, size: str) -> None:
    dataset = data.open(make({"a": object_of("dog", 1, 1, 30, 20)}, size=size), "train")
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 30, 20]]
    assert not dataset.problems


@pytest.mark.parametrize(
    ("size", "what"),
    [
        ("<size><width>20</width><height>30</height></size>", "annotated as of 20 x 30 pixels; its own size counts"),
        ("<size><width>20</width></size>", "expected a number as height, got None; the picture's own size counts"),
    ],
)
def test_a_wrong_size_is_reported(make, size: str, what: str) -> None:
    (problem,) = data.open(make({"a": object_of("dog", 1, 1, 5, 5)}, size=size), "train").problems
    assert what in problem.what


def test_faulty_files_are_reported(make, tmp_path: Path) -> None:
    dog = object_of("dog", 1, 1, 5, 5)
    spec = make({"a": dog, "text": dog, "unfinished": dog, "greedy": dog})
    faulty = ("no_xml", "no_jpg", "text", "unfinished", "greedy", "gb2312", "klingon")
    write_list(tmp_path, "train", "a 1", "a", "", *faulty)
    annotations = tmp_path / "Annotations"
    (annotations / "no_jpg.xml").write_text("<annotation/>")
    (annotations / "unfinished.xml").write_text("<annotation>\n<object>\n</annotation>")
    (annotations / "greedy.xml").write_text(
        '<!DOCTYPE a [\n<!ENTITY b "bbbb">\n]>\n<annotation><object><name>&b;</name></object></annotation>'
    )
    for encoding in ("gb2312", "klingon"):
        (annotations / f"{encoding}.xml").write_text(f"<?xml version='1.0' encoding='{encoding}'?>\n<annotation/>")
    (tmp_path / "JPEGImages" / "text.png").write_text("not a picture")
    dataset = data.open(spec, "train")
    assert list(dataset.ids) == ["a"]
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in dataset.problems] == [
        "ImageSets/Main/train.txt:2: image a stands in the list twice; taken once",
        "Annotations/no_xml.xml: no annotation (No such file or directory); its image is left out",
        "Annotations/unfinished.xml:3: not XML (mismatched tag); its image is left out",
        "Annotations/greedy.xml:2: it declares entities, which are not expanded; its image is left out",
        "Annotations/gb2312.xml: not XML (multi-byte encodings are not supported); its image is left out",
        "Annotations/klingon.xml: not XML (unknown encoding: klingon); its image is left out",
        "JPEGImages/no_jpg.jpg: no such file; left out",
        "JPEGImages/text.png: not a picture (unknown format); left out",
    ]


def test_nothing_of_use_is_an_error(make, tmp_path: Path) -> None:
    spec = make({"a": object_of("dog", 1, 1, 5, 5)})
    with pytest.raises(UserError, match=r"val\.txt: No such file or directory; lists there: train"):
        data.open(spec, "val")
    write_list(tmp_path, "val")
    with pytest.raises(UserError, match=r"expected images in .* \(val\), found none"):
        data.open(spec, "val")
    with pytest.raises(UserError, match="lists there: none"):
        data.open(f"voc:{tmp_path / 'none'}", "val")
