"""Other people's detectors, unchanged, with :mod:`detops.compat` and without: the same model on both sides."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

from detops.compat.torchvision import patch

from . import workloads
from .bench_detectors import SIZE, _call, _similar
from .common import Case

OPERATORS = ("compat",)


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields three detectors of torchvision, inference and training step, and a caller of its operators."""
    if dtype not in (torch.float32, torch.float64):
        return
    yield whole("ssdlite320_mobilenet_v3_large", False, device, dtype, quick=True)
    yield whole("ssdlite320_mobilenet_v3_large", True, device, dtype, batch=2)  # its last map is a pixel
    for name in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"):
        yield whole(name, False, device, dtype)
        yield whole(name, True, device, dtype)
    try:
        ultralytics = importlib.import_module("ultralytics.utils.nms")
    except ImportError:
        return
    yield yolo(ultralytics.non_max_suppression, device, dtype)


def whole(
    name: str, training: bool, device: torch.device, dtype: torch.dtype, batch: int = 1, quick: bool = False
) -> Case:
    """A model of torchvision on images of 800 x 1216: inference, or a training step's losses and gradients."""
    torch.manual_seed(0)
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    model.to(device, dtype).train(training)
    images = [torch.rand(3, *SIZE, device=device, dtype=dtype) for _ in range(batch)]
    call = _call(model, images, list(model.parameters()), device, dtype)
    label = f"torchvision's {name}, {batch} x 800 x 1216, {'training step' if training else 'inference'}"
    size = sum(image.nbytes for image in images)
    return Case("compat", label, _sides(call), bytes=size, check=_similar, quick=quick)


def yolo(suppress: Callable[..., list[Tensor]], device: torch.device, dtype: torch.dtype) -> Case:
    """What YOLO's boxes go through in validation, ``torchvision.ops.nms`` among it: one image, 80 classes."""
    boxes, scores = workloads.proposals_clustered(8400)
    generator = workloads.generator(5)
    classes = 0.02 * torch.rand(8400, 80, generator=generator)
    rows = torch.arange(8400)
    classes[rows, torch.randint(0, 80, (8400,), generator=generator)] = scores
    sizes = boxes[:, 2:] - boxes[:, :2]
    prediction = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, sizes, classes], dim=1).T[None].to(device, dtype)

    def call() -> list[Tensor]:
        return suppress(prediction, conf_thres=0.001, iou_thres=0.7, multi_label=True)

    label = "ultralytics' non_max_suppression, 8,400 boxes x 80 classes"
    return Case("compat", label, _sides(call), bytes=prediction.nbytes)


def _sides(call: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    def patched() -> Any:
        with patch():
            return call()

    return {"detops": patched, "torchvision": call}
