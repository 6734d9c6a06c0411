"""What data sets have in common, and detection data sets of annotated picture files."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from .._errors import UserError
from . import pictures
from .problems import Problems, ReadError

Size = tuple[int, int]  # height, width
Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Target = dict[str, Any]

_ROUNDING = 0.5  # pixels that a box may reach out of its image without a word


class Dataset(torch.utils.data.Dataset[tuple[tv_tensors.Image, Any]]):
    """Images with what is to be learned of each.

    Attributes:
        classes: Names; class i is label i.
        problems: What was found wrong so far.
        mirrorable: Whether an image seen in a mirror belongs to the same class.
    """

    classes: tuple[str, ...]
    problems: Problems
    mirrorable = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Path or description of an image, for messages."""


class DetectionDataset(Dataset):
    """Images, uint8 (3, H, W), with a dict of their objects.

    - "boxes": BoundingBoxes (N, 4) float32, corners in pixels: around the image's first pixel 0, 0, 1, 1.
    - "labels": (N,) int64.
    - "iscrowd": (N,) bool, a box around many objects (COCO).
    - "difficult": (N,) bool, an object that need not be found (VOC).
    - "area": (N,) float32, the object's in pixels as the data set gives it, else that of the box.
    - "image_id": of ``ids``.
    - "masks": Mask (N, H, W) bool, where the data set has them.

    Attributes:
        ids: Of the images, as the source has them.
    """

    ids: Sequence[int | str]

    @abstractmethod
    def box_sizes(self) -> Tensor:
        """Of every box to train on: width, height, and its image's width and height; (M, 4) float32."""


class Annotation(NamedTuple):
    """What a data set says of one object."""

    box: Corners
    label: int
    iscrowd: bool = False
    difficult: bool = False
    area: float | None = None
    segmentation: Any = None
    where: str = ""


class Picture(NamedTuple):
    """A file and the objects in it."""

    path: Path
    id: int | str
    size: Size
    annotations: list[Annotation]


class PictureDataset(DetectionDataset):
    """Picture files with annotations, which are kept in a few long tensors: workers share them.

    Args:
        classes: Names.
        files: As :func:`checked` gives them.
        problems: What was found wrong with them.
        source: What the data set was opened as.

    Raises:
        UserError: If there is no picture.
    """

    def __init__(self, classes: Sequence[str], files: Sequence[Picture], problems: Problems, source: str) -> None:
        if not files:
            raise UserError(f"expected images in {source}, found none{first(problems)}")
        self.classes, self.problems = tuple(classes), problems
        self.ids = [file.id for file in files]
        self._paths = [str(file.path) for file in files]
        self._sizes = torch.tensor([file.size for file in files])  # (n, 2)
        self._starts = torch.tensor([0] + [len(file.annotations) for file in files]).cumsum(0)
        found = [annotation for file in files for annotation in file.annotations]
        self._boxes = torch.tensor([annotation.box for annotation in found], dtype=torch.float32).reshape(-1, 4)
        self._labels = torch.tensor([annotation.label for annotation in found], dtype=torch.int64)
        self._iscrowd = torch.tensor([annotation.iscrowd for annotation in found], dtype=torch.bool)
        self._difficult = torch.tensor([annotation.difficult for annotation in found], dtype=torch.bool)
        self._areas = torch.tensor([_area(annotation) for annotation in found], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return self._paths[index]

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """An image and its objects.

        Raises:
            ReadError: If the image cannot be read.
        """
        index = range(len(self))[index]
        image = pictures.read(Path(self._paths[index]))
        size = (image.shape[1], image.shape[2])
        if size != tuple(self._sizes[index].tolist()):
            raise ReadError(self._paths[index], "another picture than when the data set was opened")
        objects = slice(*self._starts[index : index + 2].tolist())
        return image, {
            "boxes": bounding_boxes(self._boxes[objects].clone(), size),
            "labels": self._labels[objects].clone(),
            "iscrowd": self._iscrowd[objects].clone(),
            "difficult": self._difficult[objects].clone(),
            "area": self._areas[objects].clone(),
            "image_id": self.ids[index],
        }

    def box_sizes(self) -> Tensor:
        images = self._sizes.flip(1).repeat_interleave(self._starts.diff(), dim=0)
        sizes = torch.cat([self._boxes[:, 2:] - self._boxes[:, :2], images.float()], dim=1)
        return sizes[~(self._iscrowd | self._difficult)]


def bounding_boxes(boxes: Tensor, size: Size) -> tv_tensors.BoundingBoxes:
    """Corners (N, 4) in an image of this height and width, as torchvision's transforms know them."""
    return tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size)


def checked(picture: Picture, declared: Size | None, problems: Problems) -> Picture | None:
    """A picture of the size that its file has, and with those of its objects that are inside; None: it cannot be used.

    Args:
        picture: Any size.
        declared: The size that its annotation states, if it does.
        problems: Where faults are reported.
    """
    try:
        size = pictures.size(picture.path)
    except ReadError as error:
        problems.report_unreadable(error)
        return None
    if declared is not None and declared != size:
        problems.report(
            picture.path, f"a picture of {pixels(size)}, annotated as of {pixels(declared)}; its own size counts"
        )
    inside = [_inside(annotation, size, problems) for annotation in picture.annotations]
    return picture._replace(size=size, annotations=[annotation for annotation in inside if annotation])


def _inside(annotation: Annotation, size: Size, problems: Problems) -> Annotation | None:
    """The annotation with its box clipped to the image; None if nothing is left of it."""
    height, width = size
    x1, y1, x2, y2 = annotation.box
    if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
        return annotation
    box = tuple(round(value, 2) for value in annotation.box)
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        problems.report(annotation.where, f"box {box} has no area; left out")
        return None
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        problems.report(annotation.where, f"box {box} lies outside its image of {pixels(size)}; left out")
        return None
    if max(-x1, -y1, x2 - width, y2 - height) >= _ROUNDING:
        problems.report(annotation.where, f"box {box} reaches out of its image of {pixels(size)}; clipped")
    return annotation._replace(box=clipped)


def pixels(size: Size) -> str:
    """Width and height for a message."""
    return f"{size[1]} x {size[0]} pixels"


def _area(annotation: Annotation) -> float:
    x1, y1, x2, y2 = annotation.box
    return (x2 - x1) * (y2 - y1) if annotation.area is None else annotation.area


def first(problems: Problems) -> str:
    """The end of a message that nothing is left."""
    return f" that can be used: {problems[0]}" if problems else ""


def training_target(target: Target) -> Target:
    """What detectors learn from: "boxes", "labels" and "image_id", without crowds and difficult objects."""
    keep = ~(target["iscrowd"] | target["difficult"])
    boxes = tv_tensors.wrap(target["boxes"][keep], like=target["boxes"])
    return {"boxes": boxes, "labels": target["labels"][keep], "image_id": target["image_id"]}
