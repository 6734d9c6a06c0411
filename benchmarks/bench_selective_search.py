"""Selective search: time, and recall of objects, against OpenCV's (opencv-contrib-python-headless, optional)."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import detops

from .common import Case

Image = NDArray[np.uint8]


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields photograph-sized scenes in both modes, and a small one; on the CPU, once, whatever the dtype."""
    if device.type != "cpu" or dtype != torch.float32:
        return
    for mode in ("fast", "quality"):
        yield case(mode, 375, 500)
    yield case("fast", 120, 160, quick=True)


def case(mode: str, height: int, width: int, quick: bool = False) -> Case:
    """All boxes of one image. The two sides do not find the same ones: each must find nearly all of the objects."""
    image, objects = scene(height, width)
    peers = {"opencv": lambda: opencv(image, mode)} if has_opencv() else {}

    def check(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        found, expected = recall([ours], [objects], len(theirs)), recall([theirs], [objects], len(theirs))
        assert found >= expected - 0.1, f"recall {found:.2f}, expected {expected:.2f}"

    run: dict[str, Callable[[], Any]] = {"detops": lambda: detops.ops.selective_search(image, mode)}
    return Case(
        "selective_search", f"{width}x{height}, {mode}", run | peers, image.nbytes, check, quick, "" if peers else NOTE
    )


NOTE = "opencv-contrib-python-headless is not installed"


def scene(height: int, width: int, objects: int = 40, seed: int = 0) -> tuple[Image, Tensor]:
    """Ellipses of two colours each, before each other, over a gradient, with noise; and their boxes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = (y / height * 90 + x / width * 60)[..., None] + np.array([30, 60, 50])
    boxes = []
    for _ in range(objects):
        radius = np.exp(random.uniform(np.log(6), np.log(height / 4), 2))
        centre = random.uniform(radius, np.array([width, height]) - radius)
        inside = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 <= 1
        image[inside] = random.uniform(0, 255, 3)
        image[inside & (y > centre[1])] += random.uniform(-25, 25, 3)
        boxes.append([*(centre - radius), *(centre + radius)])
    image += random.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), torch.tensor(np.array(boxes), dtype=torch.float32)


def has_opencv() -> bool:
    """Whether OpenCV with its contributed modules is there."""
    return importlib.util.find_spec("cv2") is not None and hasattr(importlib.import_module("cv2"), "ximgproc")


def opencv(image: Image, mode: str) -> NDArray[np.int64]:
    """OpenCV's boxes in its order, corners as ours; on one thread."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    (search.switchToSelectiveSearchFast if mode == "fast" else search.switchToSelectiveSearchQuality)()
    boxes = np.asarray(search.process(), np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def recall(proposals: Sequence[NDArray[np.int64]], objects: Sequence[Tensor], count: int) -> float:
    """Share of all images' objects that one of the first `count` boxes overlaps with an IoU of at least 0.5."""
    found = sum(
        int((detops.ops.box_iou(torch.from_numpy(boxes[:count]), truth).amax(0) >= 0.5).sum())
        for boxes, truth in zip(proposals, objects, strict=True)
    )
    return found / sum(map(len, objects))
