"""The embedded scenes of digits."""

import hashlib

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from detops import data, ops
from detops._errors import UserError
from detops.data import digits, scenes
from detops.data.digits import DigitImages, DigitRegions, DigitScenes


def digest(dataset: DigitScenes, indices: list[int]) -> str:
    total = hashlib.sha256()
    for index in indices:
        image, target = dataset[index]
        for tensor in (image, target["boxes"], target["labels"], target["masks"]):
            total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def test_boxes_are_tight_around_masks() -> None:
    dataset = DigitScenes("train", size=128)
    for index in range(20):
        image, target = dataset[index]
        boxes, masks = target["boxes"], target["masks"]
        n = len(target["labels"])
        assert (image.dtype, image.shape) == (torch.uint8, (3, 128, 128))
        assert (masks.dtype, masks.shape) == (torch.bool, (n, 128, 128))
        assert n >= 1
        expected = ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        assert boxes.tolist() == expected.tolist()
        assert int(masks.sum(0).max()) == 1  # a pixel belongs to one digit
        assert target["area"].tolist() == ops.box_area(boxes).tolist()


def test_digits_stand_out_from_the_background() -> None:
    image, target = DigitScenes("train", size=192)[1]
    grey = image.float().mean(0)
    for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
        around = ~target["masks"].any(0)[y1:y2, x1:x2]
        assert abs(grey[mask].mean() - grey[y1:y2, x1:x2][around].mean()) > 15


def test_scenes_are_the_same_on_every_machine() -> None:
    dataset = DigitScenes("train", size=96)
    assert digest(dataset, [0, 1, 2]) == digest(DigitScenes("train", size=96, length=3), [0, 1, 2])
    assert digest(dataset, [0, 1, 2, 500]) == "b23c9e9bd21e93bdef3edb47c92afbcc56de5820ac5ce6fde1f62a4c8c5ee1fd"


def test_seed_split_and_index_make_other_scenes() -> None:
    kinds = (DigitScenes("train"), DigitScenes("train", seed=1), DigitScenes("val"))
    assert len({digest(kind, [index]) for kind in kinds for index in (0, 1)}) == 6


def test_no_digit_is_in_both_splits() -> None:
    (train, train_labels), (val, val_labels) = (digits._sources(split) for split in digits.SPLITS)
    assert (len(train), len(val)) == (1347, 450)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in val}
    assert set(train_labels) == set(val_labels) == set(range(10))


def test_every_digit_can_be_drawn_at_every_height() -> None:
    sources, _ = digits._sources("train")
    for height in (12, 40):
        for source in sources[::40]:
            opacity = scenes._drawn(np.random.default_rng(int(source.sum())), source, height)
            assert 1 < max(opacity.shape) <= 1.25 * height
            assert (opacity.min(), opacity.max()) == (0, 256)
            for edge in (opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]):
                assert edge.max() >= 128


def test_box_sizes_are_those_of_the_targets() -> None:
    dataset = DigitScenes("val", size=128, length=25)
    boxes = torch.cat([dataset[index][1]["boxes"] for index in range(len(dataset))])
    sizes = dataset.box_sizes()
    assert sizes[:, :2].tolist() == (boxes[:, 2:] - boxes[:, :2]).tolist()
    assert sizes[:, 2:].unique().tolist() == [128]


def test_regions_are_those_of_the_scenes() -> None:
    image, classes = DigitRegions("val", size=128)[3]
    scene, target = DigitScenes("val", size=128)[3]
    assert image.tolist() == scene.tolist()
    expected = (target["masks"] * (1 + target["labels"])[:, None, None]).sum(0)
    assert (classes.dtype, classes.tolist()) == (torch.uint8, expected.tolist())


def test_images_have_one_digit() -> None:
    dataset = DigitImages("train")
    assert dataset.classes == tuple("0123456789")
    assert {dataset[index][1] for index in range(60)} == set(range(10))
    assert dataset[0][0].shape == (3, 64, 64)


def test_options_of_the_spec() -> None:
    dataset = data.open("digits:size=100,length=20", "val")
    assert (len(dataset), dataset[0][0].shape) == (4, (3, 100, 100))
    assert dataset.name(3) == "digits, val 3"
    assert not dataset.mirrorable
    with pytest.raises(IndexError):
        dataset[4]
    for spec in ("digits:size=9", "digits:big", "digits:size=x", "digits:length=0"):
        with pytest.raises(UserError, match="expected options size=32…1024 and length=1…"):
            data.open(spec, "val")
    with pytest.raises(UserError, match="expected split of train, val of digits, got 'test'"):
        data.open("digits", "test")
    with pytest.raises(UserError, match=r"expected classes 0, 1, .* for digits, got cat"):
        data.open("digits", "val", classes=["cat"])
