"""Detectors against torchvision's of the same weights: whole, and what is left without the networks.

"boxes and losses" has the features and the networks' answers computed beforehand: anchors, matching, sampling,
decoding, non-maximum suppression, RoIAlign and losses remain, in training with the gradients of these answers. Its
parts are the images' way into a batch, the proposals (RPN) and the regions (RoIAlign and what follows it).
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from detops import detectors
from detops.detectors import Detector
from detops.images import unpad

from . import workloads
from .common import Case

OPERATORS = ("detectors",)
CLASSES = 91
SIZE = workloads.IMAGE_SIZE
LEVELS = ("0", "1", "2", "3", "pool")  # torchvision's names


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields boxes and losses of two architectures, then the whole of three; peers take no half precision."""
    if dtype not in (torch.float32, torch.float64):
        return
    for batch in (1, 4):
        yield retinanet_without_networks(batch, False, device, dtype)
        yield retinanet_without_networks(batch, True, device, dtype)
        yield fasterrcnn_without_networks(batch, False, device, dtype)
        yield fasterrcnn_without_networks(batch, True, device, dtype)
    yield from fasterrcnn_parts(False, device, dtype)
    yield from fasterrcnn_parts(True, device, dtype)
    yield whole("ssdlite320_mobilenet_v3_large", 1, False, device, dtype, quick=True)
    for name in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"):
        for batch in (1, 4):
            yield whole(name, batch, False, device, dtype)
            if batch > 1 or not name.startswith("ssdlite"):  # whose last map is a pixel, too little to normalise
                yield whole(name, batch, True, device, dtype)


def whole(name: str, batch: int, training: bool, device: torch.device, dtype: torch.dtype, quick: bool = False) -> Case:
    """A detector on images of 800 x 1216: inference, or a training step's losses and gradients."""

    @functools.cache  # built when a side is first called, not for the list of cases
    def sides() -> dict[str, Callable[[], Any]]:
        torch.manual_seed(0)
        theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
        ours = detectors.convert.load(detectors.build(name), theirs.state_dict())
        images = [torch.rand(3, *SIZE, device=device, dtype=dtype) for _ in range(batch)]
        models = {"detops": ours.to(device, dtype), "torchvision": theirs.to(device, dtype)}
        return {
            side: _call(model.train(training), images, list(model.parameters()), device, dtype)
            for side, model in models.items()
        }

    run: dict[str, Callable[[], Any]] = {
        "detops": lambda: sides()["detops"](),
        "torchvision": lambda: sides()["torchvision"](),
    }
    kind = "training step" if training else "inference"
    label = f"{name}, {batch} x 800 x 1216, {kind}{', small' if quick else ''}"
    size = batch * 3 * math.prod(SIZE) * dtype.itemsize
    return Case("detectors", label, run, bytes=size, check=_similar, quick=quick)


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
    ours, theirs, _, leaves = _fasterrcnns(batch, training, device, dtype)
    return _without_networks("fasterrcnn", ours, theirs, batch, training, leaves, device, dtype)


def fasterrcnn_parts(training: bool, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """The same, one image, part by part."""
    ours, theirs, features, leaves = _fasterrcnns(1, training, device, dtype)
    for model in (ours, theirs):
        model.to(device, dtype).train(training)
    images = [torch.rand(3, *SIZE, device=device, dtype=dtype)]
    targets = _targets(1, device, dtype) if training else None
    batch, (their_batch, _) = ours.transform(images), theirs.transform(images)
    rpn: Any = ours.get_submodule("head.rpn")
    roi: Any = ours.get_submodule("head.roi")
    named = dict(zip(LEVELS, features, strict=True))

    def anchors_and_predictions() -> tuple[Any, Any]:
        return rpn.anchors(features, batch.tensors.shape[-2:]), rpn(features)

    def our_proposals() -> Any:
        anchors, predictions = anchors_and_predictions()
        boxes = rpn.propose(predictions, anchors, batch).boxes
        return rpn.losses(predictions, anchors, targets) if training else boxes

    def their_proposals() -> Any:
        boxes, losses = theirs.rpn(their_batch, named, targets)
        return losses if training else torch.stack(boxes)

    anchors, predictions = anchors_and_predictions()
    with torch.no_grad():
        proposals = list(rpn.propose(predictions, anchors, batch).boxes)

    def our_regions() -> Any:
        return roi.losses(features, proposals, targets) if training else unpad(roi.detect(features, batch, proposals))

    def their_regions() -> Any:
        return theirs.roi_heads(named, proposals, their_batch.image_sizes, targets)[training]

    def batched(of: Any) -> Tensor:
        return of.tensors

    def differentiated(part: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: _with_gradients(part, leaves) if training else torch.no_grad()(part)()

    kind = f"1 x 800 x 1216, {'training' if training else 'inference'}"
    size = sum(t.nbytes for t in leaves)
    if not training:
        sides = {
            "detops": lambda: batched(ours.transform(images)),
            "torchvision": lambda: batched(theirs.transform(images)[0]),
        }
        yield Case("detectors", f"fasterrcnn, images to a batch, {kind}", sides, bytes=images[0].nbytes)
    for part, mine, other in (
        ("proposals", our_proposals, their_proposals),
        ("regions", our_regions, their_regions),
    ):
        sides = {"detops": differentiated(mine), "torchvision": differentiated(other)}
        yield Case("detectors", f"fasterrcnn, {part}, {kind}", sides, bytes=size, check=_similar)


def _fasterrcnns(
    batch: int, training: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Detector, Any, list[Tensor], list[Tensor]]:
    """Ours and torchvision's with the answers of their networks; features and answers."""
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
    _replace(theirs, backbone=lambda _: dict(zip(LEVELS, features, strict=True)))
    _replace(theirs.rpn.head, conv=lambda level: level, cls_logits=_in_turn(objectness), bbox_pred=_in_turn(deltas))
    _replace(theirs.roi_heads, box_head=_first_values)
    return ours, theirs, features, leaves


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
    targets = _targets(len(images), device, dtype)

    def infer() -> Any:
        with torch.no_grad():
            return model(images)

    def train() -> Any:
        return _with_gradients(lambda: model(images, targets), leaves)

    return train if model.training else infer


def _targets(images: int, device: torch.device, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    boxes = workloads.ground_truth(20).to(device, dtype)
    return [{"boxes": boxes, "labels": torch.arange(1, 21, device=device)} for _ in range(images)]


def _with_gradients(losses_of: Callable[[], dict[str, Tensor]], leaves: Sequence[Tensor]) -> dict[str, Tensor]:
    losses = losses_of()
    torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves, allow_unused=True)
    return {key: loss.detach() for key, loss in losses.items()}


def _similar(actual: Any, expected: Any) -> None:
    """Losses, of which some are of a random mini-batch; or proposals; or as many detections and scores as good."""
    if isinstance(actual, Tensor):  # but for near-ties, whose order may differ
        assert torch.isclose(actual, expected, rtol=1e-3, atol=1e-2).double().mean() > 0.99
        return
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
