"""Embedded data: scenes of handwritten digits, composed when they are asked for.

The digits are the 1,797 of scikit-learn's ``load_digits`` (the test set of https://doi.org/10.24432/C50P49), 8 x 8
pixels each, in the order of their writers: the first 1,347 make up the scenes to train on, the others those to
validate, so that most writers are in one of the two only.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from .._errors import UserError
from . import scenes
from .dataset import Dataset, DetectionDataset, Target, bounding_boxes
from .problems import Problems
from .scenes import Array, Digit

NAMES = tuple("0123456789")
SPLITS = ("train", "val")

_TRAIN = 1347
_SIZES = (64, 1024)  # of scenes; those of classification may be half as large
_LENGTH = 2000  # and a fifth of it to validate


class _Composed(Dataset):
    """What the three kinds have in common.

    Args:
        split: "train" or "val".
        size: Height and width of an image.
        length: Images of the split "train"; "val" has a fifth.
        seed: Of the scenes; the digits of a split are the same for all.

    Raises:
        UserError: If there is no such split.
    """

    mirrorable = False

    def __init__(self, split: str, size: int, length: int = _LENGTH, seed: int = 0) -> None:
        if split not in SPLITS:
            raise UserError(f"expected split of {', '.join(SPLITS)} of digits, got {split!r}")
        self.problems = Problems()
        self.classes: tuple[str, ...] = NAMES
        self.split, self.size, self.seed = split, size, seed
        self.length = length if split == "train" else max(length // 5, 1)
        self._sources, self._labels = _sources(split)

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"digits, {self.split} {index}"

    def _compose(self, index: int) -> tuple[tv_tensors.Image, list[Digit]]:
        digits = self._layout(index)
        image = scenes.paint(self._rng(index, 1), digits, self.size, self._clutter())
        return tv_tensors.Image(torch.from_numpy(image)), digits

    def _layout(self, index: int) -> list[Digit]:
        heights = (max(self.size // 12, 12), max(self.size * 2 // 5, 13))
        return scenes.layout(self._rng(index, 0), self._sources, self._labels, self.size, heights, most=9)

    def _clutter(self) -> int:
        return 12

    def _rng(self, index: int, part: int) -> np.random.Generator:
        index = range(len(self))[index]
        return np.random.default_rng((self.seed, SPLITS.index(self.split), index, part))


class DigitScenes(_Composed, DetectionDataset):
    """Scenes with boxes and masks; a mask is the ink that shows, a box is tight around it."""

    def __init__(self, split: str, size: int = 192, length: int = _LENGTH, seed: int = 0) -> None:
        super().__init__(split, size, length, seed)
        self.ids = range(len(self))

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, Target]:
        image, digits = self._compose(index)
        masks = self._masks(digits)
        boxes = _around(masks)
        return image, {
            "boxes": bounding_boxes(boxes, (self.size, self.size)),
            "labels": torch.tensor([digit.label for digit in digits]),
            "iscrowd": torch.zeros(len(digits), dtype=torch.bool),
            "difficult": torch.zeros(len(digits), dtype=torch.bool),
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            "image_id": self.ids[index],
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        }

    def box_sizes(self) -> Tensor:
        boxes = torch.cat([_around(self._masks(self._layout(index))) for index in range(len(self))])
        return torch.cat([boxes[:, 2:] - boxes[:, :2], torch.full((len(boxes), 2), float(self.size))], dim=1)

    def _masks(self, digits: list[Digit]) -> Array:
        return scenes.owners(digits, self.size)[None] == np.arange(1, len(digits) + 1)[:, None, None]


class DigitRegions(_Composed):
    """The scenes with the class of each pixel: 0 for the background, 1 to 10 for the ink of 0 to 9."""

    def __init__(self, split: str, size: int = 192, length: int = _LENGTH, seed: int = 0) -> None:
        super().__init__(split, size, length, seed)
        self.classes = ("background", *NAMES)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image, digits = self._compose(index)
        numbers = np.array([0, *(1 + digit.label for digit in digits)], np.uint8)
        return image, tv_tensors.Mask(torch.from_numpy(numbers[scenes.owners(digits, self.size)]))


class DigitImages(_Composed):
    """One digit an image, with its label."""

    def __init__(self, split: str, size: int = 64, length: int = _LENGTH, seed: int = 0) -> None:
        super().__init__(split, size, length, seed)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, int]:
        image, digits = self._compose(index)
        return image, digits[0].label

    def _layout(self, index: int) -> list[Digit]:
        heights = (self.size * 5 // 10, self.size * 8 // 10)
        return scenes.layout(self._rng(index, 0), self._sources, self._labels, self.size, heights, most=1)

    def _clutter(self) -> int:
        return 4


def open_digits(
    options: str, split: str, *, task: str = "detect", classes: Sequence[str] | None = None, seed: int = 0
) -> Dataset:
    """The kind of a task.

    Args:
        options: "", or "size=256,length=1000", or one of these.
        split: "train" or "val".
        task: "detect", "classify", "segment".
        classes: Those of the data set.
        seed: Of the scenes.

    Raises:
        UserError: If there is no such option or split, or the classes are others.
    """
    kinds: dict[str, Any] = {"detect": DigitScenes, "classify": DigitImages, "segment": DigitRegions}
    dataset: Dataset = kinds[task](split, **_options(options), seed=seed)
    if classes is not None and tuple(classes) != dataset.classes:
        raise UserError(f"expected classes {', '.join(dataset.classes)} for digits, got {', '.join(classes)}")
    return dataset


def _options(text: str) -> dict[str, int]:
    least = {"size": _SIZES[0] // 2, "length": 1}
    most = {"size": _SIZES[1], "length": 10**9}
    options = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in least or not value.isdecimal() or not least[name] <= int(value) <= most[name]:
            raise UserError(
                f"expected options size={least['size']}…{most['size']} and length=1… of digits, got {part!r}"
            )
        options[name] = int(value)
    return options


@cache
def _sources(split: str) -> tuple[Array, Array]:
    """Digits (n, 8, 8), 0 to 16, and their labels (n,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    part = slice(_TRAIN) if split == "train" else slice(_TRAIN, None)
    return found.images[part].astype(np.int64), found.target[part].astype(np.int64)


def _around(masks: Array) -> Tensor:
    """Boxes (N, 4) float32 around the pixels of masks (N, H, W)."""
    boxes = [
        (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        for rows, columns in ((mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]) for mask in masks)
    ]
    return torch.tensor(np.array(boxes), dtype=torch.float32)
