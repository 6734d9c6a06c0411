"""A tiny data set, coloured rectangles on grey, and an evaluator that takes no time."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detops.data import Problems, loading
from detops.data.dataset import Dataset
from detops.ops import box_iou
from detops.training.tasks import Detection

COLOURS = torch.tensor([[1.0, 0.2, 0.2], [0.2, 0.2, 1.0]])


class Rectangles(Dataset):
    classes = ("red", "blue")
    problems = Problems()

    def __init__(self, length: int, size: int = 64, *, first: int = 0, empty: bool = False) -> None:
        self.length, self.size, self.first, self.empty = length, size, first, empty

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        random = torch.Generator().manual_seed(self.first + index)
        image = torch.full((3, self.size, self.size), 0.5)
        count = 0 if self.empty else 1 + int(torch.randint(2, (), generator=random))
        boxes = torch.zeros(count, 4)
        labels = torch.randint(2, (count,), generator=random)
        for box, label in zip(boxes, labels, strict=True):
            side = torch.randint(self.size // 3, self.size // 2, (2,), generator=random)
            corner = (torch.rand(2, generator=random) * (self.size - side)).long()
            x, y, right, bottom = torch.cat([corner, corner + side]).tolist()
            image[:, y:bottom, x:right] = COLOURS[label][:, None, None]
            box[:] = torch.tensor([x, y, right, bottom])
        return image, {"boxes": boxes, "labels": labels, "image_id": index}

    def name(self, index: int) -> str:
        return f"rectangle-{index}"

    def box_sizes(self) -> Tensor:
        boxes = torch.cat([self[i][1]["boxes"] for i in range(len(self))])
        return torch.cat([boxes[:, 2:] - boxes[:, :2], torch.full((len(boxes), 2), float(self.size))], dim=1)


def training_loader(dataset: Rectangles, batch_size: int, rank: int = 0, world_size: int = 1) -> loading.Loader:
    own = batch_size // world_size
    return loading.loader(dataset, as_it_is, batch_size=own, seed=0, training=True, rank=rank, world_size=world_size)


def validation_loader(dataset: Rectangles, rank: int = 0, world_size: int = 1) -> loading.Loader:
    return loading.loader(dataset, as_it_is, batch_size=1, seed=0, training=False, rank=rank, world_size=world_size)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_it_is(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    return image, target


class Found:
    """The share of the objects that a detection of their class overlaps by half."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self.objects = self.found = 0

    def update(self, target: dict[str, Any], prediction: dict[str, Tensor]) -> None:
        self.images.append(target["image_id"])
        ious = box_iou(target["boxes"], prediction["boxes"])
        same = target["labels"][:, None] == prediction["labels"]
        self.objects += len(target["boxes"])
        self.found += int(((ious >= 0.5) & same).any(dim=1).sum())

    def merge(self, others: Sequence["Found"]) -> None:
        for other in others:
            self.images += other.images
            self.objects, self.found = self.objects + other.objects, self.found + other.found

    def compute(self) -> "Found":
        return self

    @property
    def main(self) -> tuple[str, float]:
        return "found", self.found / self.objects if self.objects else 0.0

    def as_dict(self) -> dict[str, float]:
        return {"found": self.main[1], "images": len(self.images), "different": len(set(self.images))}


class Finding(Detection):
    """Detection, judged by :class:`Found`."""

    def evaluator(self, classes: Sequence[str]) -> Found:
        return Found()
