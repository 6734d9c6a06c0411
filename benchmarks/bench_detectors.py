"""Detectors against torchvision's of the same weights: whole, and what is left without the networks.

"boxes and losses" has the features and the networks' answers computed beforehand: anchors, matching, sampling,
decoding, non-maximum suppression, RoIAlign and losses remain, in training with the gradients of these answers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from detops import detectors

from . import workloads
from .common import Case

OPERATORS = ("detectors",)
CLASSES = 91
SIZE = workloads.IMAGE_SIZE


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields boxes and losses of two architectures, then the whole of three; peers take no half precision."""
    if dtype not in (torch.float32, torch.float64):
        return
    for batch in (1, 4):
        yield retinanet_without_networks(batch, False, device, dtype)
        yield retinanet_without_networks(batch, True, device, dtype)
        yield fasterrcnn_without_networks(batch, False, device, dtype)
        yield fasterrcnn_without_networks(batch, True, device, dtype)
    yield whole("ssdlite320_mobilenet_v3_large", 1, False, device, dtype, quick=True)
    for name in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"):
        for batch in (1, 4):
            yield whole(name, batch, False, device, dtype)
            yield whole(name, batch, True, device, dtype)


def whole(name: str, batch: int, training: bool, device: torch.device, dtype: torch.dtype, quick: bool = False) -> Case:
    """A detector on images of 800 x 1216: inference, or a training step's losses and gradients."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    ours = detectors.convert.load(detectors.build(name), theirs.state_dict())
    images = [torch.rand(3, *SIZE, device=device, dtype=dtype) for _ in range(batch)]
    sides = {}
    for side, model in (("detops", ours), ("torchvision", theirs)):
        sides[side] = _call(model.to(device, dtype).train(training), images, list(model.parameters()), device, dtype)
    kind = "training step" if training else "inference"
    label = f"{name}, {batch} x 800 x 1216, {kind}{', small' if quick else ''}"
    return Case("detectors", label, sides, bytes=sum(image.nbytes for image in images), check=_similar, quick=quick)


def retinanet_without_networks(batch: int, training: bool, device: torch.device, dtype: torch.dtype) -> Case:
    """RetinaNet, levels of stride 8 to 128."""
    features = _maps((8, 16, 32, 64, 128), batch, 1, device, dtype)
    logits = [t - 6 for t in _maps((8, 16, 32, 64, 128), batch, 9 * CLASSES, device, dtype)]
    deltas = [t / 5 for t in _maps((8, 16, 32, 64, 128), batch, 9 * 4, device, dtype)]
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    ours = detectors.retinanet_resnet50_fpn()
    leaves = [t.requires_grad_(training) for t in (*logits, *deltas)]
    _replace(ours, backbone=lambda _: features, neck=lambda levels: levels)
    _replace(ours.head, classification=_in_turn(logits), regression=_in_turn(deltas))
    _replace(theirs, backbone=lambda _: dict(enumerate(features)))
    heads = theirs.head.classification_head, theirs.head.regression_head
    _replace(heads[0], conv=lambda level: level, cls_logits=_in_turn(logits))
    _replace(heads[1], conv=lambda level: level, bbox_reg=_in_turn(deltas))
    return _without_networks("retinanet", ours, theirs, batch, training, leaves, device, dtype)


def fasterrcnn_without_networks(batch: int, training: bool, device: torch.device, dtype: torch.dtype) -> Case:
    """Faster R-CNN, levels of stride 4 to 64; the two layers behind RoIAlign left out."""
    strides = (4, 8, 16, 32, 64)
    features = _maps(strides, batch, 256, device, dtype)
    objectness = _maps(strides, batch, 3, device, dtype)
    deltas = [t / 5 for t in _maps(strides, batch, 3 * 4, device, dtype)]
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    ours = detectors.convert.load(detectors.fasterrcnn_resnet50_fpn(), theirs.state_dict())
    leaves = [t.requires_grad_(training) for t in (*features, *objectness, *deltas)]
    for classes in (theirs.roi_heads.box_predictor.cls_score, ours.get_submodule("head.roi.classes")):
        classes.get_parameter("weight").data[0] += 0.1  # background most of the time
    _replace(ours, backbone=lambda _: features, neck=lambda levels: levels)
    _replace(ours.head.rpn, conv=lambda level: level, objectness=_in_turn(objectness), deltas=_in_turn(deltas))
    _replace(ours.head.roi, box_head=_first_values)
    names = ("0", "1", "2", "3", "pool")
    _replace(theirs, backbone=lambda _: dict(zip(names, features, strict=True)))
    _replace(theirs.rpn.head, conv=lambda level: level, cls_logits=_in_turn(objectness), bbox_pred=_in_turn(deltas))
    _replace(theirs.roi_heads, box_head=_first_values)
    return _without_networks("fasterrcnn", ours, theirs, batch, training, leaves, device, dtype)


def _without_networks(
    name: str,
    ours: nn.Module,
    theirs: nn.Module,
    batch: int,
    training: bool,
    leaves: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Case:
    images = [torch.rand(3, *SIZE, device=device, dtype=dtype) for _ in range(batch)]
    run = {
        side: _call(model.to(device, dtype).train(training), images, leaves, device, dtype)
        for side, model in (("detops", ours), ("torchvision", theirs))
    }
    kind = "training" if training else "inference"
    label = f"{name}, boxes and losses, {batch} x 800 x 1216, {kind}"
    return Case("detectors", label, run, bytes=sum(t.nbytes for t in leaves), check=_similar)


def _call(
    model: nn.Module, images: list[Tensor], leaves: Sequence[Tensor], device: torch.device, dtype: torch.dtype
) -> Callable[[], Any]:
    boxes = workloads.ground_truth(20).to(device, dtype)
    targets = [{"boxes": boxes, "labels": torch.arange(1, 21, device=device)} for _ in images]

    def infer() -> Any:
        with torch.no_grad():
            return model(images)

    def train() -> Any:
        losses = model(images, targets)
        torch.autograd.grad(sum(losses.values()), leaves, allow_unused=True)
        return {key: loss.detach() for key, loss in losses.items()}

    return train if model.training else infer


def _similar(actual: Any, expected: Any) -> None:
    """Losses, of which some are of a random mini-batch, or as many detections and scores as good."""
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        torch.testing.assert_close(actual, expected, rtol=0.2, atol=1e-2)
        return
    for mine, theirs in zip(actual, expected, strict=True):
        assert abs(len(mine["scores"]) - len(theirs["scores"])) <= 2
        n = min(len(mine["scores"]), len(theirs["scores"]))
        torch.testing.assert_close(mine["scores"][:n], theirs["scores"][:n], rtol=1e-3, atol=1e-3)


def _maps(strides: Sequence[int], batch: int, channels: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    height, width = SIZE
    return [torch.randn(batch, channels, -(-height // s), -(-width // s), device=device, dtype=dtype) for s in strides]


def _first_values(pooled: Tensor) -> Tensor:
    """(K, 1024) in the place of two layers."""
    return pooled.flatten(1)[:, :1024]


def _in_turn(answers: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """What a network says to one level after the other, again and again."""
    calls = 0

    def answer(_: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return answers[(calls - 1) % len(answers)]

    return answer


class _Answer(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _replace(module: Any, **functions: Callable[..., Any]) -> None:
    for name, function in functions.items():
        setattr(module, name, _Answer(function))
