"""Batches: determinism, several processes, and images that cannot be read."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import tv_tensors

from detops import data
from detops._errors import UserError
from detops.data import Problems, ReadError, transforms
from detops.data.dataset import Dataset
from detops.data.loading import Loader, loader


class Numbers(Dataset):
    """Image i has the value i everywhere; its target is i."""

    classes = ("any",)

    def __init__(self, length: int, broken: tuple[int, ...] = (), strict: bool = False) -> None:
        self.length, self.broken, self.problems = length, broken, Problems(strict)

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"number {index}"

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, int]:
        if index in self.broken:
            raise ReadError(self.name(index), "broken")
        return tv_tensors.Image(torch.full((3, 2, 2), index, dtype=torch.uint8)), index


def noisy(image: tv_tensors.Image, target: int) -> tuple[torch.Tensor, Any]:
    return image + torch.rand(3, 2, 2), (target, float(torch.rand(())))


def batches(source: Dataset, epoch: int = 0, first_batch: int = 0, **options: Any) -> list[tuple[list[Any], list[Any]]]:
    options = {"batch_size": 3, "seed": 7, "training": True} | options
    batches = loader(source, noisy, **options)
    batches.batch_sampler.set_epoch(epoch, first_batch)
    return list(batches)


def targets(*args: Any, **options: Any) -> list[list[Any]]:
    return [target for _, target in batches(*args, **options)]


def images_of(*args: Any, **options: Any) -> list[list[int]]:
    return [[image for image, _ in batch] for batch in targets(*args, **options)]


def test_workers_change_nothing() -> None:
    torch.manual_seed(1)
    plain = targets(Numbers(20), epoch=3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert targets(Numbers(20), epoch=3, num_workers=2) == plain
    assert torch.equal(torch.random.get_rng_state(), before)
    assert targets(Numbers(20), epoch=3) == plain
    assert torch.equal(torch.random.get_rng_state(), before)
    images, again = (batches(Numbers(20), epoch=3)[2][0] for _ in range(2))
    assert all(map(torch.equal, images, again))


def test_epochs_and_seeds_differ() -> None:
    assert len({str(targets(Numbers(20), epoch=e, seed=s)) for e in range(3) for s in range(3)}) == 9
    order = sorted(i for batch in images_of(Numbers(21)) for i in batch)
    assert order == list(range(21))  # each once
    (changed,) = {value for batch in targets(Numbers(21), epoch=0) for i, value in batch if i == 4}
    (later,) = {value for batch in targets(Numbers(21), epoch=1) for i, value in batch if i == 4}
    assert changed != later


def test_starts_in_the_middle_of_an_epoch() -> None:
    whole = targets(Numbers(20), epoch=5)
    assert len(whole) == 6
    assert targets(Numbers(20), epoch=5, first_batch=4) == whole[4:]
    assert targets(Numbers(20), epoch=5, first_batch=4, num_workers=2) == whole[4:]


def test_workers_live_on_and_learn_of_the_epoch() -> None:
    batches = loader(Numbers(9), noisy, batch_size=3, seed=7, training=True, num_workers=1)
    for epoch in (0, 1):
        batches.batch_sampler.set_epoch(epoch)
        assert len(batches) == 3
        assert [target for _, target in batches] == targets(Numbers(9), epoch=epoch)


def test_processes_see_together_what_one_sees() -> None:
    one = targets(Numbers(50), batch_size=8, epoch=2)
    four = [targets(Numbers(50), batch_size=2, epoch=2, rank=rank, world_size=4) for rank in range(4)]
    assert len(one) == 6
    for i, batch in enumerate(one):
        assert sorted(batch) == sorted(chain(*(process[i] for process in four)))


@pytest.mark.parametrize("length", [2, 9, 10, 11])
def test_evaluation_reads_every_image_once(length: int) -> None:
    read = [images_of(Numbers(length), training=False, rank=rank, world_size=3, batch_size=2) for rank in range(3)]
    assert sorted(i for process in read for batch in process for i in batch) == list(range(length))
    assert [i for batch in images_of(Numbers(length), training=False) for i in batch] == list(range(length))
    for rank, process in enumerate(read):
        source = Numbers(length)
        options = {"batch_size": 2, "seed": 0, "training": False, "rank": rank, "world_size": 3}
        assert len(loader(source, noisy, **options)) == len(process)


def test_a_batch_of_more_than_there_is_repeats_images() -> None:
    (batch,) = images_of(Numbers(3), batch_size=8)
    assert len(batch) == 8
    assert set(batch) == {0, 1, 2}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_takes_another_image_for_one_that_cannot_be_read(num_workers: int) -> None:
    source = Numbers(12, broken=(4, 5))
    read = images_of(source, num_workers=num_workers)
    assert [len(batch) for batch in read] == [3, 3, 3, 3]
    assert sorted(i for batch in read for i in batch) == [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10, 11]
    assert sorted(map(str, source.problems)) == [f"number {i}: broken; another in its place" for i in (4, 5)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_leaves_out_what_cannot_be_read(num_workers: int) -> None:
    source = Numbers(8, broken=(1, 3, 4, 5))
    assert images_of(source, training=False, num_workers=num_workers) == [[0, 2], [6, 7]]
    assert [str(problem) for problem in source.problems] == [f"number {i}: broken; left out" for i in (1, 3, 4, 5)]


@pytest.mark.parametrize("training", [True, False])
def test_what_cannot_be_read_is_an_error_if_strict(training: bool) -> None:
    with pytest.raises(UserError, match=r"^number 4: broken; "):
        batches(Numbers(12, broken=(4,), strict=True), training=training, num_workers=1)


def test_nothing_that_can_be_read_is_an_error() -> None:
    with pytest.raises(UserError, match="no image can be read any more: number"):
        batches(Numbers(3, broken=(0, 1, 2)))


def test_a_picture_that_breaks_after_opening(tmp_path: Path, write_picture) -> None:
    for i in range(4):
        write_picture(tmp_path / "train" / "cat" / f"{i}.png")
    source = data.open(f"folder:{tmp_path}", "train", task="classify")
    path = Path(source.name(2))
    path.write_bytes(path.read_bytes()[:-30])
    read: Loader = loader(source, transforms.evaluation("classify", size=8), batch_size=2, seed=0, training=False)
    assert [len(images) for images, _ in read] == [2, 1]
    (problem,) = source.problems
    assert problem.where == str(path)
    assert "broken picture" in problem.what
    (tmp_path / "train" / "cat" / "3.png").unlink()
    list(read)
    assert [problem.what for problem in source.problems][1:] == ["no such file; left out"]


def test_digits_through_workers() -> None:
    pytest.importorskip("sklearn")
    source = data.open("digits:size=64,length=8", "train")
    options = {"batch_size": 4, "seed": 0, "training": True}
    transform = transforms.training("detect", augmentation="ssd", mirrorable=source.mirrorable)
    plain, parallel = (list(loader(source, transform, **options, num_workers=workers)) for workers in (0, 2))
    for (images, found), (others, expected) in zip(plain, parallel, strict=True):
        assert all(map(torch.equal, images, others))
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a["boxes"], b["boxes"])
            assert torch.equal(a["labels"], b["labels"])
            assert a["image_id"] == b["image_id"]
