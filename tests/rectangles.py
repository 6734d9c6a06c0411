"""A tiny data set, coloured rectangles on grey, with the loader and the evaluator that training asks for."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detops.ops import box_iou
from detops.training.tasks import Detection

COLOURS = torch.tensor([[1.0, 0.2, 0.2], [0.2, 0.2, 1.0]])


class Key(NamedTuple):
    epoch: int
    image: int


class Rectangles(Dataset[tuple[Tensor, dict[str, Any]]]):
    classes = ("red", "blue")

    def __init__(self, length: int, size: int = 64, *, first: int = 0, empty: bool = False) -> None:
        self.length, self.size, self.first, self.empty = length, size, first, empty

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | Key) -> tuple[Tensor, dict[str, Any]]:
        index = index.image if isinstance(index, Key) else index
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


class Batches(Sampler[list[Key]]):
    """Shuffled by (seed, epoch) and dealt to the ranks; from any batch on."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(100 * self.seed + self.epoch))
        for batch in range(self.first_batch, len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()
            yield [Key(self.epoch, image) for image in whole[self.rank :: self.world_size]]


class Loader(DataLoader[Any]):
    """With the data set it reads, as training asks for it."""

    def __init__(self, source: Rectangles, batches: Any) -> None:
        self.source = source
        super().__init__(source, batch_sampler=batches, collate_fn=collate)


def collate(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def training_loader(dataset: Rectangles, batch_size: int, rank: int = 0, world_size: int = 1) -> Loader:
    batches = Batches(len(dataset), batch_size, 0, rank, world_size)
    return Loader(dataset, batches)


def validation_loader(dataset: Rectangles, rank: int = 0, world_size: int = 1) -> Loader:
    own = [[i] for i in range(rank, len(dataset), world_size)]
    return Loader(dataset, own)


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
