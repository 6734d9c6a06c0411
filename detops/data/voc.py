"""Data sets in PASCAL VOC's format: a list of images, a picture and an XML file of each."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .._errors import UserError
from . import pictures
from .dataset import Annotation, Corners, DetectionDataset, Picture, PictureDataset, Size, checked
from .problems import Problems, ReadError

_LINE = "detops:line"  # an attribute that the reader adds to each element


class _Named(NamedTuple):
    """An annotation whose class has no number yet."""

    name: str
    box: Corners
    difficult: bool
    where: str


class _File(NamedTuple):
    size: Size | None
    objects: list[_Named]


def open_voc(
    source: str, split: str, *, classes: Sequence[str] | None = None, strict: bool = False
) -> DetectionDataset:
    """A data set in PASCAL VOC's layout.

    The files count pixels from 1 and include a box's last one: a box xmin, ymin, xmax, ymax has the corners xmin - 1,
    ymin - 1, xmax, ymax. One whose two corners are the same pixel or in a line is taken for a slip and reported.

    Args:
        source: A folder with ImageSets/Main/<split>.txt, Annotations/<image>.xml and JPEGImages/<image>.*.
        split: Name of a list of images.
        classes: Names in the order of their labels; by default those in the annotations of the list "train", or of
            this one if there is no such list, in alphabetical order.
        strict: The first problem is an error.

    Raises:
        UserError: If there is no such folder or list, or no image in it.
    """
    folder, problems = Path(source), Problems(strict)
    names = _list(folder, split, problems)
    found = {name: _annotation(folder, name, problems) for name in names}
    if classes is None:
        classes = _classes(_of_train(folder) or found)
    labels = {name: label for label, name in enumerate(classes)}
    files = _files(folder / "JPEGImages")
    kept = []
    for name, annotation in found.items():
        if annotation is None:
            continue
        picture = Picture(files.get(name, folder / "JPEGImages" / f"{name}.jpg"), name, (0, 0), [])
        objects = _labelled(annotation.objects, labels, problems)
        kept.append(checked(picture._replace(annotations=objects), annotation.size, problems))
    return PictureDataset(classes, [file for file in kept if file], problems, f"{folder} ({split})")


def _list(folder: Path, split: str, problems: Problems) -> list[str]:
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        others = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"expected a list of images in {path}: {error.strerror}; lists there: {others}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"expected a list of images in {path}: {error}") from error
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = re.sub(r"\s+(1|0|-1)$", "", line.strip())  # which the lists of single classes add
        if name in names:
            problems.report(f"{path}:{number}", f"image {name} stands in the list twice; taken once")
        names[name] = None
    return list(names)


def _of_train(folder: Path) -> dict[str, _File | None]:
    """The annotations of the list "train", where there is one; what is wrong with them shows when that is opened."""
    if not (folder / "ImageSets" / "Main" / "train.txt").is_file():
        return {}
    ignored = Problems()
    return {name: _annotation(folder, name, ignored) for name in _list(folder, "train", ignored)}


def _classes(files: dict[str, _File | None]) -> tuple[str, ...]:
    return tuple(sorted({named.name for found in files.values() if found for named in found.objects}))


def _labelled(objects: Sequence[_Named], labels: dict[str, int], problems: Problems) -> list[Annotation]:
    kept = []
    for name, box, difficult, where in objects:
        if name in labels:
            kept.append(Annotation(box, labels[name], difficult=difficult, where=where))
        else:
            problems.report(where, f"unknown class {name!r}; left out")
    return kept


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"expected a folder of images, found none at {folder}")
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in pictures.EXTENSIONS}


def _annotation(folder: Path, name: str, problems: Problems) -> _File | None:
    path = folder / "Annotations" / f"{name}.xml"
    try:
        root = _parse(path)
    except ReadError as error:
        problems.report_unreadable(error, "its image is left out")
        return None
    objects = []
    for element in root.findall("object"):
        where = f"{path}:{element.get(_LINE)}"
        try:
            objects.append(_object(element, where))
        except ValueError as error:
            problems.report(where, f"{error}; left out")
    try:
        return _File(_size(root), objects)
    except ValueError as error:
        problems.report(path, f"{error}; the picture's own size counts")
        return _File(None, objects)


def _object(element: Element, where: str) -> _Named:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object without a name")
    bounds = element.find("bndbox")
    if bounds is None:
        raise ValueError(f"{name}: no bndbox")
    x1, y1, x2, y2 = (_number(bounds, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"{name}: box {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area")
    difficult = (element.findtext("difficult") or "0").strip() not in ("", "0")
    return _Named(name, (x1 - 1, y1 - 1, x2, y2), difficult, where)


def _size(root: Element) -> Size | None:
    """Height and width as stated, if they are; zeros are some tools' way to say nothing."""
    size = root.find("size")
    if size is None:
        return None
    height, width = (int(_number(size, side)) for side in ("height", "width"))
    return (height, width) if height or width else None


def _number(parent: Element, tag: str) -> float:
    text = parent.findtext(tag)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a number as {tag}, got {text!r}")
    return number


def _parse(path: Path) -> Element:
    """An XML file's root; each element has its line as an attribute. Files that declare entities are refused."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes | {_LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise ReadError(f"{path}:{parser.CurrentLineNumber}", "it declares entities, which are not expanded")

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except OSError as error:
        raise ReadError(path, f"no annotation ({error.strerror})") from error
    except expat.ExpatError as error:
        raise ReadError(f"{path}:{error.lineno}", f"not XML ({expat.ErrorString(error.code)})") from error
    except (ValueError, LookupError) as error:  # of its encoding
        raise ReadError(path, f"not XML ({error})") from error
