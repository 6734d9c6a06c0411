"""Images to a batch and boxes back, as torchvision's transform does it; and what is said of wrong input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detops.images import Detections, ImageTransform, check_targets, unpad

SIZES = [(150, 200), (97, 61), (300, 40)]


def _targets(count: int = 3) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0]], dtype=torch.float64)
    return [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(count)]


@pytest.mark.parametrize(
    "options", [{"min_size": 128, "max_size": 160}, {"min_size": 64, "max_size": 1000}, {"fixed_size": (96, 96)}]
)
def test_as_torchvision(options: dict[str, Any]) -> None:
    transform = pytest.importorskip("torchvision", reason="compares with torchvision").models.detection.transform
    images = [torch.rand(3, *size, dtype=torch.float64) for size in SIZES]
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    arguments = {"min_size": 1, "max_size": 1} | options
    reference = transform.GeneralizedRCNNTransform(image_mean=mean, image_std=std, **arguments)
    wanted, wanted_targets = reference([image.clone() for image in images], _targets())
    ours = ImageTransform(image_mean=mean, image_std=std, **options)
    batch = ours(images)
    torch.testing.assert_close(batch.tensors, wanted.tensors)
    assert batch.sizes == wanted.image_sizes
    assert batch.original_sizes == SIZES
    for mine, other in zip(ours.resize_targets(_targets(), batch), wanted_targets, strict=True):
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-15, atol=0)
        assert mine["labels"].tolist() == [1, 2]


def test_boxes_come_back() -> None:
    transform = ImageTransform(128, 160)
    batch = transform([torch.rand(3, *size) for size in SIZES])
    resized = transform.resize_targets([t | {"boxes": t["boxes"].float()} for t in _targets()], batch)
    boxes = torch.stack([target["boxes"] for target in resized])
    found = Detections(boxes, torch.ones(3, 2), torch.ones(3, 2, dtype=torch.int64), torch.tensor([2, 1, 0]))
    restored = unpad(transform.restore(found, batch))
    assert [len(image["boxes"]) for image in restored] == [2, 1, 0]
    torch.testing.assert_close(restored[0]["boxes"], _targets()[0]["boxes"].float())


def test_draws_a_size_in_training_only() -> None:
    transform = ImageTransform((32, 64), 100)
    image = torch.rand(3, 50, 50)
    assert {transform([image]).sizes[0] for _ in range(20)} == {(32, 32), (64, 64)}
    assert {transform.eval()([image]).sizes[0] for _ in range(20)} == {(64, 64)}


def test_leaves_the_images_alone() -> None:
    image = torch.rand(3, 32, 32)
    before = image.clone()
    ImageTransform(32, 32)([image])
    assert image.equal(before)


def test_a_line_keeps_a_pixel() -> None:
    batch = ImageTransform(32, 64)([torch.rand(3, 1, 5000)])
    assert batch.sizes == [(1, 64)]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images of at least one, got none"),
        ([torch.rand(32, 32)], r"images\[0\] of shape \(3, H, W\), got \(32, 32\)"),
        ([torch.rand(3, 8, 8), torch.rand(1, 8, 8)], r"images\[1\] of shape \(3, H, W\), got \(1, 8, 8\)"),
        ([torch.rand(3, 0, 8)], r"images\[0\] of shape"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], r"images\[0\] of a floating dtype, .* got torch.uint8"),
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 8).double()], r"one dtype and device.* got torch.float64.*images\[1\]"),
    ],
)
def test_says_what_is_wrong_with_images(images: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTransform()(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": -5}, r"min_size of whole pixels, at least 1, got \(-5,\)"),
        ({"min_size": (64, 0)}, r"min_size .* got \(64, 0\)"),
        ({"max_size": 0}, "max_size .* got"),
        ({"fixed_size": ([64, 64], 64)}, r"fixed_size .* got \(\[64, 64\], 64\)"),
    ],
)
def test_says_what_is_wrong_with_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTransform(**options)


def _with(key: str, value: Any) -> list[dict[str, Tensor]]:
    targets = _targets(2)
    targets[1][key] = value
    return targets


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "targets in training, got None"),
        (_targets(1), "targets of 2 images, got 1"),
        ([*_targets(1), {"boxes": torch.zeros(0, 4)}], r'targets\[1\] to have "labels"'),
        (_with("boxes", torch.zeros(2, 5)), r'targets\[1\]\["boxes"\] \(N, 4\), floating, got \(2, 5\)'),
        (_with("boxes", torch.zeros(2, 4, dtype=torch.int64)), r"floating, got \(2, 4\) of torch.int64"),
        (_with("labels", torch.tensor([1])), r'targets\[1\]\["labels"\] \(2,\) of torch.int64, got \(1,\)'),
        (_with("labels", torch.tensor([1.0, 2.0])), "torch.float32"),
        (_with("labels", torch.tensor([1, 9])), r"targets\[1\] .*labels from 1 to 4, got box 1 .* of label 9"),
        (
            _with("boxes", torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 9]])),
            r"targets\[1\] .*positive width and height.* got box 1 \[3.0, 3.0, 3.0, 9.0\]",
        ),
        (_with("boxes", torch.tensor([[0.0, 0, 5, torch.inf], [3, 3, 4, 9]])), r"targets\[1\] to have finite .*box 0"),
    ],
)
def test_says_what_is_wrong_with_targets(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_targets(targets, 2, range(1, 5))


def test_targets_without_objects_are_right() -> None:
    check_targets([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}], 1, range(1, 5))
