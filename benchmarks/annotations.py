"""Boxes of real images, read from COCO's or Pascal VOC's annotation files."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detops._errors import UserError


class AnnotationError(UserError):
    """An annotation file that cannot be used; the message names the file and the record."""


@dataclass(frozen=True)
class ImageBoxes:
    """The objects of one image: boxes (N, 4) xyxy in pixels, N > 0."""

    boxes: Tensor
    height: int
    width: int


def read_boxes(path: str | Path) -> list[ImageBoxes]:
    """Reads a COCO instances file (.json), a VOC annotation (.xml) or a folder of VOC annotations.

    Returns:
        One entry per image that has objects.

    Raises:
        AnnotationError: If the file is missing, broken or without boxes.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = sorted(path.glob("*.xml"))
            if not files:
                raise AnnotationError(f"{path}: no .xml file in this folder")
            images = [_read_voc(file) for file in files]
        else:
            images = _read_coco(path) if path.suffix.lower() == ".json" else [_read_voc(path)]
    except OSError as error:
        raise AnnotationError(f"{error.filename or path}: {error.strerror}") from error
    images = [image for image in images if len(image.boxes)]
    if not images:
        raise AnnotationError(f"{path}: no boxes in it")
    return images


def _read_coco(path: Path) -> list[ImageBoxes]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise AnnotationError(f"{path}: not a COCO instances file: expected an object with 'images' and 'annotations'")
    for part in ("images", "annotations"):
        if not isinstance(content[part], list):
            raise AnnotationError(f"{path}: {part}: expected a list, got {type(content[part]).__name__}")
    sizes: dict[Any, tuple[int, int]] = {}
    boxes: dict[Any, list[list[float]]] = {}
    for index, image in enumerate(content["images"]):
        try:
            sizes[image["id"]] = _size(image["height"], image["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: images[{index}]: {_reason(error)}") from error
    for index, annotation in enumerate(content["annotations"]):
        try:
            image_id, bbox = annotation["image_id"], annotation["bbox"]
            if image_id not in sizes:
                raise ValueError(f"no image with id {image_id}")
            if len(bbox) != 4:
                raise ValueError(f"expected bbox as x, y, width, height, got {bbox}")
            x, y, width, height = map(float, bbox)
            boxes.setdefault(image_id, []).append(_box(x, y, x + width, y + height))
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: annotations[{index}]: {_reason(error)}") from error
    return [ImageBoxes(torch.tensor(image_boxes), *sizes[image]) for image, image_boxes in boxes.items()]


def _read_voc(path: Path) -> ImageBoxes:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise AnnotationError(f"{path}: not XML: {error}") from error
    try:
        height, width = _size(_text(root, "size/height"), _text(root, "size/width"))
    except ValueError as error:
        raise AnnotationError(f"{path}: size: {_reason(error)}") from error
    boxes = []
    for index, item in enumerate(root.iter("object")):
        try:
            boxes.append(_box(*(float(_text(item, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))))
        except ValueError as error:
            raise AnnotationError(f"{path}: object {index}: {_reason(error)}") from error
    return ImageBoxes(torch.tensor(boxes).reshape(-1, 4), height, width)


def _box(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    if not (x1 <= x2 < float("inf") and y1 <= y2 < float("inf") and min(x1, y1) > -float("inf")):
        raise ValueError(f"expected a box with x1 <= x2 and y1 <= y2, got {(x1, y1, x2, y2)}")
    return [x1, y1, x2, y2]


def _size(height: Any, width: Any) -> tuple[int, int]:
    size = int(height), int(width)
    if min(size) <= 0:
        raise ValueError(f"expected a positive height and width, got {size}")
    return size


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text


def _reason(error: Exception) -> str:
    return f"no such entry: {error}" if isinstance(error, KeyError) else str(error)
