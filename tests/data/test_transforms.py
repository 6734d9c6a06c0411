"""What happens to images and targets on the way to a model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from detops import detectors
from detops.data import transforms
from detops.data.dataset import bounding_boxes

BOXES = torch.tensor([[10.0, 20, 50, 60], [60, 5, 90, 30], [0, 0, 100, 80], [5, 5, 6, 6]])


def sample(boxes: Tensor = BOXES) -> tuple[tv_tensors.Image, dict[str, Any]]:
    """An image of 80 x 100 that is black but for the first box, which is red."""
    n = len(boxes)
    image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes[:1].int().tolist():
        image[0, y1:y2, x1:x2] = 255
    kinds = torch.arange(n)
    return tv_tensors.Image(image), {
        "boxes": bounding_boxes(boxes.clone(), (80, 100)),
        "labels": kinds,
        "iscrowd": kinds == 2,
        "difficult": kinds == 3,
        "area": torch.ones(n),
        "image_id": 5,
        "masks": tv_tensors.Mask(torch.zeros(n, 80, 100, dtype=torch.bool)),
    }


def extent(image: Tensor) -> list[float]:
    rows, columns = (image[0] > 0.5).nonzero().unbind(1)
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


def test_evaluation_keeps_everything_but_masks() -> None:
    image, target = transforms.evaluation("detect")(*sample())
    assert (type(image), image.dtype, image.shape) == (Tensor, torch.float32, (3, 80, 100))
    assert image[0, 30, 30] == 1
    assert set(target) == {"boxes", "labels", "iscrowd", "difficult", "area", "image_id"}
    assert type(target["boxes"]) is Tensor
    assert target["boxes"].tolist() == BOXES.tolist()
    assert (target["labels"].tolist(), target["image_id"]) == ([0, 1, 2, 3], 5)


@pytest.mark.parametrize("augmentation", transforms.AUGMENTATIONS)
def test_training_keeps_boxes_on_their_objects(augmentation: str) -> None:
    transform = transforms.training("detect", augmentation=augmentation)
    seen = set()
    for _ in range(30):
        image, target = transform(*sample())
        assert (type(image), image.dtype) == (Tensor, torch.float32)
        assert image.max() <= 1
        assert image.min() >= 0
        assert set(target) == {"boxes", "labels", "image_id"}
        assert set(target["labels"].tolist()) <= {0, 1}  # neither the crowd nor what is difficult
        boxes = dict(zip(target["labels"].tolist(), target["boxes"], strict=True))
        assert all((box[2:] - box[:2]).min() >= 1 for box in boxes.values())
        seen.add((tuple(image.shape), *boxes.get(0, BOXES[0] * 0).tolist()))
        if 0 in boxes and augmentation in ("none", "flip", "jitter"):  # colours as they were
            torch.testing.assert_close(torch.tensor(extent(image)), boxes[0], rtol=0, atol=1)
    assert len(seen) == {"none": 1, "flip": 2}.get(augmentation, len(seen))
    assert len(seen) > 5 or augmentation in ("none", "flip")


@pytest.mark.parametrize("augmentation", transforms.AUGMENTATIONS)
def test_training_on_images_without_objects(augmentation: str) -> None:
    transform = transforms.training("detect", augmentation=augmentation)
    for _ in range(5):
        _, target = transform(*sample(torch.zeros(0, 4)))
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].dtype == torch.int64


def test_jitter_gives_the_size_asked_for() -> None:
    for size in (64, (50, 70)):
        for _ in range(5):
            image, _ = transforms.training("detect", size=size, augmentation="jitter")(*sample())
            assert image.shape[1:] == ((64, 64) if size == 64 else size)


def test_what_must_not_be_mirrored_is_not() -> None:
    transform = transforms.training("detect", mirrorable=False)
    assert {extent(transform(*sample())[0])[0] for _ in range(20)} == {10.0}


def test_detectors_have_their_papers_augmentation() -> None:
    chosen = {name: transforms.augmentation_of(name) for name in detectors.names()}
    assert {name for name, kind in chosen.items() if kind != "flip"} == {
        "ssd300_vgg16",
        "ssdlite320_mobilenet_v3_large",
    }
    assert set(chosen.values()) <= set(transforms.AUGMENTATIONS)


@pytest.mark.parametrize("make", [transforms.training, transforms.evaluation])
def test_classification(make: Callable[..., transforms.Transform]) -> None:
    image, label = make("classify", size=48)(sample()[0], 3)
    assert (image.shape, image.dtype, label) == ((3, 48, 48), torch.float32, 3)
    assert make("classify")(sample()[0], 3)[0].shape == (3, 224, 224)


def test_segmentation() -> None:
    image, _ = sample()
    mask = tv_tensors.Mask((image[0] > 0).to(torch.uint8))
    out, classes = transforms.evaluation("segment")(image, mask)
    assert (out.shape, type(classes), classes.tolist()) == ((3, 80, 100), Tensor, mask.tolist())
    transform = transforms.training("segment", size=(64, 72))
    padded = 0
    for _ in range(20):
        out, classes = transform(image, mask)
        assert (out.shape[1:], classes.shape, classes.dtype) == ((64, 72), (64, 72), torch.uint8)
        known = classes != 255
        assert set(classes.unique().tolist()) <= {0, 1, 255}
        red = out[0] - out[1] > 0.4 * (out[0] - out[1])[known].max().clamp(min=0.2)
        assert (red == (classes == 1))[known].float().mean() > 0.97
        padded += int((~known).any())
    assert 0 < padded < 20


def test_says_what_there_is() -> None:
    with pytest.raises(ValueError, match="expected augmentation of none, flip, jitter, ssd, ssdlite, got 'all'"):
        transforms.training("detect", augmentation="all")
    for make in (transforms.training, transforms.evaluation):
        with pytest.raises(ValueError, match="expected task of detect, classify, segment, got 'paint'"):
            make("paint")
