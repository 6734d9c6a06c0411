"""The detectors are torchvision's: the same weights give the same boxes, losses, gradients and training."""

import detector_pairs as pairs
import pytest
import torch
from torch import Tensor, nn

from detops import detectors, ops

pytestmark = pytest.mark.slow

# With frozen batch normalisation, as published with the weights, and with all of it trainable.
PARAMETERS = {
    "fasterrcnn_resnet50_fpn": (41_755_286, 41_808_406),
    "fasterrcnn_resnet50_fpn_v2": (None, 43_712_278),
    "fasterrcnn_mobilenet_v3_large_fpn": (19_386_354, 19_410_754),
    "retinanet_resnet50_fpn": (34_014_999, 34_068_119),
    "retinanet_resnet50_fpn_v2": (None, 38_198_935),
    "ssd300_vgg16": (None, 35_641_826),
    "ssdlite320_mobilenet_v3_large": (None, 3_440_060),
}
SIZES = [(150, 200), (210, 120)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_published(name: str) -> None:
    frozen, trainable = PARAMETERS[name]
    assert _count(detectors.build(name)) == trainable
    if frozen is not None:
        assert _count(detectors.build(name, frozen_batch_norm=True)) == frozen


@pytest.mark.parametrize("name", pairs.NAMES)
def test_detections(name: str) -> None:
    theirs, ours = pairs.pair(name)
    images = pairs.images(*SIZES)
    with torch.no_grad():
        for mine, wanted in zip(ours(images), theirs(images), strict=True):
            mine, wanted = _ties_in_order(mine), _ties_in_order(wanted)
            assert len(wanted["boxes"]) > 20
            torch.testing.assert_close(mine["labels"], wanted["labels"], rtol=0, atol=0)
            torch.testing.assert_close(mine["boxes"], wanted["boxes"], rtol=0, atol=1e-6)
            torch.testing.assert_close(mine["scores"], wanted["scores"], rtol=0, atol=1e-6)

        theirs.float(), ours.float()
        images = [image.float() for image in images]
        for mine, wanted in zip(ours(images), theirs(images), strict=True):
            _assert_found(mine, wanted)
            _assert_found(wanted, mine)


@pytest.mark.parametrize("name", pairs.NAMES)
def test_losses(name: str) -> None:
    theirs, ours = (model.float().train() for model in pairs.pair(name))
    sizes = [*SIZES, (128, 128)]
    images = pairs.images(*sizes, dtype=torch.float32)
    # an image without objects, one with one, one with a crowd
    targets = [pairs.target(size, n, torch.float32) for size, n in zip(sizes, (0, 1, 200), strict=True)]
    with torch.no_grad():
        losses, wanted = ours(images, targets), theirs(images, targets)
    assert set(losses) == set(wanted)
    for key, loss in wanted.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("steps", [2, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", pairs.NAMES)
def test_training_together(name: str, steps: int) -> None:
    theirs, ours = (model.train() for model in pairs.pair(name))
    sizes = [(96, 110), (80, 90)][: 2 if "ssdlite" in name else 1]  # its last map is a pixel, too little to normalise
    images, targets = pairs.images(*sizes), [pairs.target(size, 3) for size in sizes]
    optimisers = [torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9) for model in (theirs, ours)]
    totals: list[list[float]] = [[], []]
    for step in range(steps):
        for model, optimiser, history in zip((theirs, ours), optimisers, totals, strict=True):
            loss = sum(model(images, targets).values())
            optimiser.zero_grad()
            loss.backward()
            history.append(float(loss.detach()))
        if step == 0:
            _assert_same_gradients(theirs, ours)
        for optimiser in optimisers:
            optimiser.step()
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)
    assert totals[0][-1] != pytest.approx(totals[0][0], rel=1e-4)
    expected = pairs.renamed(theirs, ours, theirs.state_dict())
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


def _assert_same_gradients(theirs: nn.Module, ours: nn.Module) -> None:
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    expected = pairs.renamed(theirs, ours, gradients)
    for name, parameter in ours.named_parameters():
        error = float((parameter.grad - expected[name]).norm())
        assert error <= 1e-6 * float(expected[name].norm()) + 1e-12, f"{name}: off by {error}"


def _ties_in_order(detections: dict[str, Tensor]) -> dict[str, Tensor]:
    """Equal scores of a class, as locations without a signal have, in the order of their boxes."""
    rows = zip(*(detections[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    keys = [(-round(score, 10), label, [round(x, 3) for x in box]) for score, label, box in rows]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return {key: values[order] for key, values in detections.items()}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _assert_found(wanted: dict[str, Tensor], among: dict[str, Tensor]) -> None:
    """Each detection stands among the others, up to near-ties: at the end of the list, and of boxes that overlap."""
    least = float(among["scores"].min())
    for box, label, score in zip(wanted["boxes"], wanted["labels"], wanted["scores"], strict=True):
        alike = ((among["scores"] - score).abs() < 1e-4) & (among["labels"] == label)
        same = alike & ((among["boxes"] - box).abs().amax(dim=1) < 1e-2)
        rival = alike & (ops.box_iou(among["boxes"], box[None])[:, 0] > 0.3)
        assert same.any() or rival.any() or score < least + 1e-4, (box, label, score)
