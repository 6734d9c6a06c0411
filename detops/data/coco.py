"""Data sets in COCO's format: a folder of pictures and a JSON file of instances (https://cocodataset.org/#format-data)."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from .._errors import UserError
from . import splits
from .dataset import Annotation, DetectionDataset, Picture, PictureDataset, Size, Target, checked
from .problems import Problems, ReadError

Record = dict[str, Any]
Objects = dict[Any, list[Annotation] | None]  # by image id; None: the image is of another split


class CocoDataset(PictureDataset):
    """The images of a JSON file of instances, those without any included.

    Class i is the i-th category in the order of their ids, whether it has instances or not.

    Args:
        images: Folder of the pictures.
        annotations: The JSON file.
        classes: Names in the order of their labels, instead of the file's.
        split: "all", or "train" and "val": see :func:`detops.data.splits.chosen`.
        seed: Of these splits.
        masks: Whether targets have "masks".
        strict: The first problem is an error.

    Raises:
        UserError: If there is no such folder or file, it is not of this format, or has no image.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        classes: Sequence[str] | None = None,
        *,
        split: str = "all",
        seed: int = 0,
        masks: bool = False,
        strict: bool = False,
    ) -> None:
        if not images.is_dir():
            raise UserError(f"expected a folder of images, found none at {images}")
        problems, content = Problems(strict), _read(annotations)
        names = _categories(content["categories"], annotations, problems)
        classes = tuple(dict.fromkeys(names.values())) if classes is None else tuple(classes)
        records = _by_id(content["images"], "image", annotations, problems)
        _report_twice_named(records, annotations, problems)
        kept = splits.chosen([str(key) for key in records], split, seed, str(annotations))
        objects: Objects = {key: ([] if str(key) in kept else None) for key in records}
        _distribute(content["annotations"], objects, _labels(names, classes), annotations, problems)
        pictures = _pictures(records, objects, images, annotations)
        files = [file for file in (checked(*picture, problems) for picture in pictures) if file]
        super().__init__(classes, files, problems, str(annotations))
        self._segmentations = (
            [annotation.segmentation for file in files for annotation in file.annotations] if masks else None
        )

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        image, target = super().__getitem__(index)
        if self._segmentations is not None:
            shapes = self._segmentations[slice(*self._starts[range(len(self))[index] :][:2].tolist())]
            try:
                target["masks"] = _masks(shapes, (image.shape[1], image.shape[2]))
            except Exception as error:  # the decoder's, of which there are many kinds
                raise ReadError(self.name(index), f"it has a segmentation that is none ({error})") from error
        return image, target


def open_coco(
    source: str, split: str, *, classes: Sequence[str] | None = None, strict: bool = False, seed: int = 0
) -> DetectionDataset:
    """A data set in COCO's layout.

    Args:
        source: "IMAGES,ANNOTATIONS.json", with a tenth held out for the split "val"; or a folder with
            annotations/instances_<split>*.json and the pictures in <split>*/, images/<split>*/ or images/.
        split: "train", "val"; with ``IMAGES,ANNOTATIONS.json`` also "all".
        classes: As in :class:`CocoDataset`.
        strict: As there.
        seed: Of what is held out.

    Raises:
        UserError: If there is no such data set.
    """
    images, comma, annotations = source.rpartition(",")
    if comma:
        return CocoDataset(Path(images), Path(annotations), classes, split=split, seed=seed, strict=strict)
    folder = Path(source)
    found = sorted(folder.glob(f"annotations/instances_{split}*.json"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"expected one file annotations/instances_{split}*.json in {folder}, found {names}")
    name = found[0].stem.removeprefix("instances_")
    places = [folder / name, folder / "images" / name, folder / split, folder / "images" / split, folder / "images"]
    images_folder = next((place for place in places if place.is_dir()), None)
    if images_folder is None:
        raise UserError(f"expected a folder {name}, images/{name} or images in {folder}, found none")
    return CocoDataset(images_folder, found[0], classes, strict=strict)


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"expected COCO instances in {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers of thousands of digits, endless nesting
        raise UserError(f"{path}: not JSON: {error}") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise UserError(f"expected COCO instances in {path}: an object with the lists {', '.join(parts)}")
    return {part: content[part] for part in parts}


def _by_id(records: Iterable[Any], kind: str, path: Path, problems: Problems) -> dict[Any, Record]:
    """Records by their ids, in the file's order; those without one, and all but the first of one id, are reported."""
    found: dict[Any, Record] = {}
    for number, record in enumerate(records, 1):
        key = record.get("id") if isinstance(record, dict) else None
        if not isinstance(key, int | str):
            problems.report(f"{path}: {kind} number {number}", "it has no id; left out")
        elif key in found:
            problems.report(f"{path}: {kind} {key}", "another has the same id; left out")
        else:
            found[key] = record
    return found


def _report_twice_named(images: dict[Any, Record], path: Path, problems: Problems) -> None:
    """One picture under two ids counts twice, and may be both trained on and held out."""
    ids: dict[Any, Any] = {}
    for key, record in images.items():
        name = str(record.get("file_name", ""))
        if name and name in ids:
            problems.report(f"{path}: image {key}", f"the same file as of image {ids[name]}, {name}; both taken")
        ids.setdefault(name, key)


def _categories(records: list[Any], path: Path, problems: Problems) -> dict[Any, str]:
    """Names by id, in the order of ids."""
    names: dict[Any, str] = {}
    found = _by_id(records, "category", path, problems)
    for key in sorted(found, key=lambda key: (isinstance(key, str), key)):
        name = found[key].get("name")
        if not isinstance(name, str):
            problems.report(f"{path}: category {key}", "it has no name; left out")
            continue
        if name in names.values():
            problems.report(f"{path}: category {key}", f"another is called {name!r}; taken as the same")
        names[key] = name
    if not names:
        raise UserError(f"expected categories in {path}, found none")
    return names


def _labels(names: dict[Any, str], classes: Sequence[str]) -> dict[Any, int | str]:
    """By the id of a category its label, or its name if that is not one of the classes."""
    labels = {name: i for i, name in enumerate(classes)}
    return {key: labels.get(name, name) for key, name in names.items()}


def _distribute(
    annotations: list[Any], objects: Objects, labels: dict[Any, int | str], path: Path, problems: Problems
) -> None:
    """Gives each image its annotations; reports those that are of no use."""
    ids: set[Any] = set()
    for number, record in enumerate(annotations, 1):
        where = f"{path}: annotation number {number}"
        try:
            if not isinstance(record, dict):
                raise TypeError("expected an object with an image_id, category_id and bbox")
            where = f"{path}: annotation {record['id']}" if "id" in record else where
            if record["image_id"] not in objects:
                raise ValueError(f"there is no image {record['image_id']!r}")
            of_image = objects[record["image_id"]]
            if of_image is None:
                continue
            if "id" in record and record["id"] in ids:
                problems.report(where, "another has the same id; both taken")
            ids.add(record.get("id"))
            of_image.append(_annotation(record, labels, where, problems))
        except KeyError as error:
            problems.report(where, f"it has no {error.args[0]}; left out")
        except (TypeError, ValueError) as error:
            problems.report(where, f"{error}; left out")


def _annotation(record: Record, labels: dict[Any, int | str], where: str, problems: Problems) -> Annotation:
    label = labels.get(record["category_id"])
    if label is None:
        raise ValueError(f"there is no category {record['category_id']!r}")
    if isinstance(label, str):
        raise ValueError(f"unknown class {label!r}")
    try:
        x, y, width, height = map(float, record["bbox"])
    except (TypeError, ValueError, OverflowError):
        shown = f"{record['bbox']!r:.80}"
        raise ValueError(f"expected numbers bbox [x, y, width, height], got {shown}") from None
    iscrowd = record.get("iscrowd") or 0
    if iscrowd not in (0, 1):
        raise ValueError(f"iscrowd {iscrowd!r}, expected 0 or 1")
    return Annotation(
        (x, y, x + width, y + height),
        label,
        iscrowd=bool(iscrowd),
        area=_area(record.get("area"), where, problems),
        segmentation=record.get("segmentation"),
        where=where,
    )


def _area(given: Any, where: str, problems: Problems) -> float | None:
    """In pixels, if it says how many."""
    if given is None:
        return None
    if isinstance(given, int | float) and 0 <= given < math.inf:
        return float(given)
    problems.report(where, f"area {given!r:.80}; that of its box counts")
    return None


def _pictures(
    records: dict[Any, Record], objects: Objects, folder: Path, path: Path
) -> Iterable[tuple[Picture, Size | None]]:
    """The split's pictures, and the sizes that the file states."""
    for key, record in records.items():
        annotations = objects[key]
        if annotations is None:
            continue
        size = (record.get("height"), record.get("width"))
        name = str(record.get("file_name", f"(image {key} of {path.name} has no file_name)"))
        picture = Picture(folder / name, key, (0, 0), annotations)
        yield picture, None if None in size else size  # type: ignore[misc]


def _masks(segmentations: Sequence[Any], size: Size) -> tv_tensors.Mask:
    """Polygons and run lengths, or None for an empty mask, as masks (N, H, W) bool."""
    from faster_coco_eval import mask as coding

    masks = np.zeros((len(segmentations), *size), bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if segmentation:
            runs = coding.frPyObjects(segmentation, *size) if not _compressed(segmentation) else segmentation
            mask[:] = coding.decode(coding.merge(runs) if isinstance(runs, list) else runs)
    return tv_tensors.Mask(torch.from_numpy(masks))


def _compressed(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and not isinstance(segmentation.get("counts"), list)
