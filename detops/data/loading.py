"""Batches: the same ones whatever the number of workers, from any place in an epoch, by any number of processes.

In training the order of an epoch depends on the seed and the epoch alone, the random changes to an image on these and
the image. W processes with batches of B see together what one process with batches of W * B sees.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from .._errors import UserError
from .dataset import Dataset
from .problems import Problem, ReadError
from .transforms import Transform

Batch = tuple[list[Any], list[Any]]  # images, targets


class _Key(NamedTuple):
    epoch: int
    image: int


class _Sample(NamedTuple):
    """An image and its target, or neither; and what was found wrong on the way to it."""

    image: Any
    target: Any
    problems: list[Problem]


class _Samples(torch.utils.data.Dataset[_Sample]):
    """What runs in the workers, which have no other way to report than with a sample."""

    def __init__(self, dataset: Dataset, transform: Transform, seed: int, training: bool) -> None:
        self.dataset, self.transform, self.seed, self.training = dataset, transform, seed, training

    def __getitem__(self, key: _Key) -> _Sample:
        """The image of this index; in training, if it cannot be read, the next one that can."""
        problems: list[Problem] = []
        for offset in range(len(self.dataset) if self.training else 1):
            index = (key.image + offset) % len(self.dataset)
            try:
                image, target = self.dataset[index]
            except ReadError as error:
                instead = "another in its place" if self.training else "left out"
                problems.append(Problem(error.problem.where, f"{error.problem.what}; {instead}"))
                continue
            with _seeded(self.seed, key.epoch, index):
                return _Sample(*self.transform(image, target), problems)
        return _Sample(None, None, problems)


class EpochBatches(Sampler[list[_Key]]):
    """Which images make up the batches of an epoch, for one of several processes.

    In training images are in random order and all batches are full: what is left over at the end is left to other
    epochs, and where there are fewer images than one batch takes, they come again. Otherwise process r takes the images
    r, r + W, …, each once.
    """

    def __init__(self, length: int, batch_size: int, seed: int, training: bool, rank: int, world_size: int) -> None:
        self.length, self.batch_size, self.seed, self.training = length, batch_size, seed, training
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first_batch = 0, 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The epoch of the next iteration, and how many of its batches are skipped."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Of a whole epoch, skipped batches included."""
        if self.training:
            return max(self.length // (self.batch_size * self.world_size), 1)
        return -(-len(range(self.rank, self.length, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[list[_Key]]:
        indices = self._order()[self.rank :: self.world_size]
        for batch in range(self.first_batch, len(self)):
            first = batch * self.batch_size
            yield [_Key(self.epoch, index) for index in indices[first : first + self.batch_size]]

    def _order(self) -> list[int]:
        if not self.training:
            return list(range(self.length))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return np.resize(order, len(self) * self.batch_size * self.world_size).tolist()


class Loader(DataLoader[Batch]):
    """Batches of a data set. What is wrong with an image on reading is reported to the data set, or raised if strict.

    In training another image takes the place of one that cannot be read. Otherwise it is left out; where that leaves
    nothing of a batch, so is the batch.
    """

    batch_sampler: EpochBatches

    def __init__(self, samples: _Samples, batches: EpochBatches, num_workers: int) -> None:
        self.source = samples.dataset
        super().__init__(
            cast(Any, samples),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_together,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(0),  # or each epoch would take a number from torch's own
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Batches.

        Raises:
            UserError: If the data set is strict and an image cannot be read, or none can.
        """
        for batch in super().__iter__():
            images, targets, problems = cast(tuple[list[Any], list[Any], list[Problem]], batch)
            for problem in problems:
                self.source.problems.add(problem)
            if images:
                yield images, targets
            elif self.batch_sampler.training:
                raise UserError(f"no image can be read any more: {problems[0]}")


def loader(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Loader:
    """Batches as a list of images and a list of targets.

    Args:
        dataset: Where they come from.
        transform: What is done to an image and its target.
        batch_size: Images a batch, in each of the processes.
        seed: Of the order and of the transform.
        training: Random order and full batches; ``loader.batch_sampler.set_epoch(epoch, first_batch=0)`` says where
            the next iteration starts. Otherwise every image once, in order.
        rank: Which process this is,
        world_size: of how many.
        num_workers: Processes that read images; 0: this one does.
    """
    batches = EpochBatches(len(dataset), batch_size, seed, training, rank, world_size)
    return Loader(_Samples(dataset, transform, seed, training), batches, num_workers)


def _together(samples: list[_Sample]) -> tuple[list[Any], list[Any], list[Problem]]:
    read = [sample for sample in samples if sample.image is not None]
    problems = [problem for sample in samples for problem in sample.problems]
    return [sample.image for sample in read], [sample.target for sample in read], problems


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Seeds torch's generator for the CPU by numbers and puts it back as it was; those of GPUs are let be."""
    before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
