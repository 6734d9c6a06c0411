"""Batches for Lightning, from wherever a run goes on."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule

from .._errors import UserError
from .progress import Progress

if TYPE_CHECKING:
    from ..data.loading import Loader

MakeLoader = Callable[[int, int], "Loader"]  # of a rank, of so many processes


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

    def setup(self, stage: str) -> None:
        if self.batches_per_epoch:
            return
        assert self.trainer is not None
        place = self.trainer.global_rank, self.trainer.world_size
        self.loader, self.validation = self._make_training(*place), self._make_validation(*place)
        self.start(0, 0)
        self.batches_per_epoch = len(self.loader)
        images = len(self.validation.source)
        if images < place[1]:  # for all processes alike, so that none waits for one that gave up
            raise UserError(f"train: expected an image to evaluate for each of {place[1]} devices, got {images}")
        if self.progress.batch >= self.batches_per_epoch:
            raise UserError(
                f"train: --resume: expected the data that the training began with, got {self.batches_per_epoch}"
                f" batches an epoch, of which {self.progress.batch} are done"
            )

    def train_dataloader(self) -> "_Rest":
        return _Rest(self, self.progress.epoch, self.progress.batch)

    def val_dataloader(self) -> "Loader":
        return self.validation

    def names(self, epoch: int, batch: int) -> list[str]:
        """Of the images of a batch of this process."""
        self.start(epoch, batch)
        return [self.loader.source.name(key.image) for key in next(iter(self.loader.batch_sampler))]

    def start(self, epoch: int, first_batch: int) -> None:
        """Where the next iteration over the training loader begins."""
        self.loader.batch_sampler.set_epoch(epoch, first_batch=first_batch)


class _Rest:
    """The batches of an epoch from one on."""

    def __init__(self, data: Data, epoch: int, first_batch: int) -> None:
        self.data, self.epoch, self.first_batch = data, epoch, first_batch

    def __len__(self) -> int:
        return self.data.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[Any]:
        self.data.start(self.epoch, self.first_batch)  # when the first batch is asked for: Lightning makes idle ones
        yield from self.data.loader
