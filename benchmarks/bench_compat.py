"""Other people's detectors, unchanged, with :mod:`detops.compat` and without: the same model on both sides."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from detops.compat.torchvision import patch

from . import bench_detectors as detectors
from . import workloads
from .common import Case

OPERATORS = ("compat",)


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields torchvision's detectors, without their networks and as a whole, and a caller of its operators."""
    if dtype not in (torch.float32, torch.float64):
        return
    for training in (False, True):
        yield _torchvisions(detectors.retinanet_without_networks(1, training, device, dtype))
        yield _torchvisions(detectors.fasterrcnn_without_networks(1, training, device, dtype))
    ssdlite = "ssdlite320_mobilenet_v3_large"
    yield _torchvisions(detectors.whole(ssdlite, 1, False, device, dtype, quick=True))
    yield _torchvisions(detectors.whole(ssdlite, 2, True, device, dtype))  # its last map is a pixel: two to normalise
    for name in ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"):
        yield _torchvisions(detectors.whole(name, 1, False, device, dtype))
        yield _torchvisions(detectors.whole(name, 1, True, device, dtype))
    try:
        ultralytics = importlib.import_module("ultralytics.utils.nms")
    except ImportError:
        return
    yield yolo(ultralytics.non_max_suppression, device, dtype)


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


def _torchvisions(case: Case) -> Case:
    """A case of detectors, torchvision's model alone, as the case calls it."""
    sides = _sides(case.run["torchvision"])
    return Case("compat", f"torchvision's {case.name}", sides, bytes=case.bytes, check=case.check, quick=case.quick)


def _sides(call: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    def patched() -> Any:
        with patch():
            return call()

    return {"detops": patched, "torchvision": call}
