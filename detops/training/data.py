"""Batches for Lightning, from wherever a run goes on."""

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from .._errors import UserError
from .progress import Progress

# Rank and number of processes to a loader. A training loader's ``batch_sampler`` has ``set_epoch(epoch, first_batch)``.
MakeLoader = Callable[[int, int], DataLoader[Any]]


class Data(LightningDataModule):
    """The loaders of this process.

    Args:
        training: Makes the loader to train with.
        validation: Makes the loader to evaluate with.
        progress: Of the run; an epoch begins where it stands.
    """

    def __init__(self, training: MakeLoader, validation: MakeLoader, progress: Progress) -> None:
        super().__init__()
        self._make_training, self._make_validation = training, validation
        self.progress = progress
        self.batches_per_epoch = 0
        self._validation: DataLoader[Any] | None = None

    def setup(self, stage: str) -> None:
        if self.batches_per_epoch:
            return
        assert self.trainer is not None
        place = self.trainer.global_rank, self.trainer.world_size
        self.loader, self._validation = self._make_training(*place), self._make_validation(*place)
        self._start(0, 0)
        self.batches_per_epoch = len(self.loader)
        if not self.batches_per_epoch or not len(self._validation):
            raise UserError(
                f"train: expected images for each of {place[1]} devices, to train and to evaluate, got none"
            )

    def train_dataloader(self) -> "_Rest":
        return _Rest(self, self.progress.epoch, self.progress.batch)

    def val_dataloader(self) -> DataLoader[Any]:
        assert self._validation is not None
        return self._validation

    def names(self, epoch: int, batch: int) -> list[str]:
        """Of the images of a batch of this process."""
        dataset = self.loader.dataset
        name: Callable[[int], str] = getattr(dataset, "name", str)
        self._start(epoch, batch)
        return [name(index) for index in next(iter(self.loader.batch_sampler or []))]

    def _start(self, epoch: int, first_batch: int) -> None:
        self.loader.batch_sampler.set_epoch(epoch, first_batch=first_batch)  # type: ignore[union-attr]


class _Rest:
    """The batches of an epoch from one on."""

    def __init__(self, data: Data, epoch: int, first_batch: int) -> None:
        self.data, self.epoch, self.first_batch = data, epoch, first_batch

    def __len__(self) -> int:
        return self.data.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[Any]:
        self.data._start(self.epoch, self.first_batch)  # when the first batch is asked for: Lightning makes idle ones
        yield from self.data.loader
