"""Data sets that are folders of pictures: one folder a class, or pictures of class numbers beside the pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torchvision import tv_tensors

from .._errors import UserError
from ..images import IGNORED
from . import pictures, splits
from .dataset import Dataset, Size, first, pixels
from .problems import Problems, ReadError


class FolderClasses(Dataset):
    """Pictures of one class each: dataset[i] is an image and its label.

    Laid out as DIR/<split>/<class>/<picture> (torchvision's ImageFolder), or as DIR/<class>/<picture> with a tenth of
    each class held out for the split "val".

    Args:
        folder: DIR.
        split: Name of a folder; without these "train", "val" or "all".
        classes: Names in the order of their labels; by default those of the folders of "train", or of this split if
            there is no such folder, in alphabetical order.
        strict: The first problem is an error.
        seed: Of what is held out.

    Raises:
        UserError: If there is no such folder, or no picture in it.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self.problems = Problems(strict)
        own_splits = _has_folders(folder / "train") or _has_folders(folder / split)
        root = folder / split if own_splits else folder
        if not root.is_dir():
            raise UserError(f"expected a folder of classes, found none at {root}")
        train = folder / "train" if own_splits and (folder / "train").is_dir() else root
        self.classes = tuple(_folders(train)) if classes is None else tuple(classes)
        self._files = [
            (file, label)
            for name, label in self._labels(root)
            for file in self._pictures(root / name, None if own_splits else split, seed)
        ]
        if not self._files:
            raise UserError(f"expected pictures in folders of classes in {root}, found none{first(self.problems)}")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return str(self._files[index][0])

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, int]:
        """An image and its label.

        Raises:
            ReadError: If the image cannot be read.
        """
        file, label = self._files[index]
        return pictures.read(file), label

    def _labels(self, root: Path) -> Iterable[tuple[str, int]]:
        for name in _folders(root):
            if name in self.classes:
                yield name, self.classes.index(name)
            else:
                self.problems.report(root / name, "unknown class; its pictures are left out")

    def _pictures(self, folder: Path, split: str | None, seed: int) -> list[Path]:
        files = _files(folder, self.problems)
        if not files:
            self.problems.report(folder, "a class without pictures")
        if split is not None:
            kept = splits.chosen([file.name for file in files], split, seed, str(folder.parent))
            files = [file for file in files if file.name in kept]
        return [file for file in files if _size(file, self.problems)]


class FolderSegments(Dataset):
    """Pictures with a class number for each pixel: dataset[i] is an image and a Mask (H, W) uint8, 255 = ignored.

    Laid out as DIR/images/<name>.<any> and DIR/labels/<name>.png (or DIR/masks/…); DIR/<split>.txt lists names, without
    such lists a tenth is held out for the split "val".

    DIR/classes.txt names the classes, one a line, the first of number 0. Without it, every number above 0 is class 1,
    as in masks of 0 and 255 and in maps that number the instances.

    Args:
        folder: DIR.
        split: Name of a list; without lists "train", "val" or "all".
        classes: Names instead of those of classes.txt.
        strict: The first problem is an error.
        seed: Of what is held out.

    Raises:
        UserError: If there are no such folders, or no picture in them.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self.problems = Problems(strict)
        named = _lines(folder / "classes.txt") if (folder / "classes.txt").is_file() else None
        self._binary = named is None
        self.classes = tuple(classes or named or ("background", "object"))
        if not 1 < len(self.classes) <= IGNORED:
            raise UserError(f"expected 2 to {IGNORED} classes in {folder / 'classes.txt'}, got {len(self.classes)}")
        images = _by_stem(_files(folder / "images", self.problems), self.problems)
        labels = _by_stem(_files(_labels_folder(folder), self.problems), self.problems)
        names = self._chosen(folder, split, seed, list(images | labels))
        self._files = [pair for pair in (self._pair(name, images, labels) for name in names) if pair]
        if not self._files:
            raise UserError(f"expected images and labels in {folder}, found none{first(self.problems)}")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return str(self._files[index][0])

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """An image and the classes of its pixels.

        Raises:
            ReadError: If one of the two cannot be read, or a class number is none.
        """
        image, labels = self._files[index]
        numbers = pictures.read_labels(labels)
        if self._binary:
            numbers = (numbers > 0).long()
        elif bool(((numbers >= len(self.classes)) & (numbers != IGNORED)).any()):
            numbers = numbers[numbers != IGNORED]
            raise ReadError(labels, f"expected numbers under {len(self.classes)} or {IGNORED}, got {numbers.max()}")
        return pictures.read(image), tv_tensors.Mask(numbers.to(torch.uint8))

    def _chosen(self, folder: Path, split: str, seed: int, names: list[str]) -> list[str]:
        lists = {file.stem: file for file in folder.glob("*.txt") if file.name != "classes.txt"}
        if not lists:
            kept = splits.chosen(names, split, seed, str(folder))
            return [name for name in names if name in kept]
        if split not in lists:
            raise UserError(f"expected a list {split}.txt in {folder}, found those of {', '.join(sorted(lists))}")
        return list(dict.fromkeys(_stem(line) for line in _lines(lists[split])))

    def _pair(self, name: str, images: dict[str, Path], labels: dict[str, Path]) -> tuple[Path, Path] | None:
        if name not in images or name not in labels:
            missing = "labels" if name in images else "images"
            found = images.get(name) or labels.get(name) or name
            self.problems.report(found, f"no picture of the same name in {missing}/; left out")
            return None
        size, labelled = _size(images[name], self.problems), _size(labels[name], self.problems)
        if size and labelled and size != labelled:
            self.problems.report(labels[name], f"of {pixels(labelled)}, its image of {pixels(size)}; left out")
        return (images[name], labels[name]) if size and size == labelled else None


def _labels_folder(folder: Path) -> Path:
    return folder / "labels" if (folder / "labels").is_dir() else folder / "masks"


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and bool(_folders(folder))


def _folders(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _files(folder: Path, problems: Problems) -> list[Path]:
    """The pictures in a folder; other files are reported, hidden ones are not."""
    if not folder.is_dir():
        raise UserError(f"expected a folder of pictures, found none at {folder}")
    found = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if file.suffix.lower() in pictures.EXTENSIONS:
            found.append(file)
        else:
            problems.report(file, "not a picture by its name; left out")
    return found


def _by_stem(files: Iterable[Path], problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            problems.report(file, f"{found[file.stem].name} has the same name; left out")
        else:
            found[file.stem] = file
    return found


def _size(file: Path, problems: Problems) -> Size | None:
    try:
        return pictures.size(file)
    except ReadError as error:
        problems.report_unreadable(error)
        return None


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a list in {file}: {error}") from error


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if Path(name).suffix.lower() in pictures.EXTENSIONS else name
