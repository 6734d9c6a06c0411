"""What happens to an image and its target on the way to a model, by torchvision.transforms.v2.

A transform takes what a data set gives and returns the image as float32 in 0 to 1 and a target of plain tensors. Models
for detection resize and normalise images themselves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..images import IGNORED, IMAGENET_MEAN
from .dataset import Target, training_target

Transform = Callable[[tv_tensors.Image, Any], tuple[Tensor, Any]]
Size = int | tuple[int, int]  # of both sides; height, width

AUGMENTATIONS = ("none", "flip", "jitter", "ssd", "ssdlite")

_FILL = {tv_tensors.Image: [round(255 * mean) for mean in IMAGENET_MEAN], tv_tensors.Mask: IGNORED, "others": 0}


def augmentation_of(detector: str) -> str:
    """The augmentation with which a detector's paper trains it."""
    return {"ssd300_vgg16": "ssd", "ssdlite320_mobilenet_v3_large": "ssdlite"}.get(detector, "flip")


def training(task: str, *, size: Size | None = None, augmentation: str = "flip", mirrorable: bool = True) -> Transform:
    """Random changes to an image, and the same to its target, by torch's generator.

    Args:
        task: "detect": targets get "boxes", "labels" and "image_id", without crowds, difficult objects and boxes of
            which under a pixel is left. "classify", "segment".
        size: Of the image that comes out; none: as large as it was, for "classify" 224. Only "jitter" and the other
            two tasks use it.
        augmentation: For "detect". "none"; "flip": mirrors half of the images; "jitter": flip, scaled by 0.8 to 1.25
            and shifted (https://arxiv.org/abs/2012.07177, section 3); "ssd": distorted colours, zooming out, cropping
            by IoU and flip (https://arxiv.org/abs/1512.02325, sections 2.2, 3.6); "ssdlite": cropping by IoU and flip.
        mirrorable: Whether images may be mirrored at all; a data set says so.

    Raises:
        ValueError: If there is no such task or augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"expected augmentation of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    flip = [v2.RandomHorizontalFlip()] if mirrorable else []
    if task == "detect":
        none = augmentation == "none"
        steps = [] if none else [*_DETECTION[augmentation](size), *flip, v2.SanitizeBoundingBoxes()]
        return _Pipeline([*steps, *_to_float()], before=training_target)
    if task == "classify":
        return _Pipeline([v2.RandomResizedCrop(size or 224, scale=(0.5, 1.0)), *flip, _colours(), *_to_float()])
    if task == "segment":
        return _Pipeline([ScaleJitter((0.5, 2.0), size), *flip, _colours(), *_to_float()])
    raise ValueError(f"expected task of detect, classify, segment, got {task!r}")


def evaluation(task: str, *, size: Size | None = None) -> Transform:
    """Images as they are, and everything that targets say except masks of objects.

    Args:
        task: "detect", "classify", "segment".
        size: For "classify", whose images are all resized to it (224). The others keep theirs.

    Raises:
        ValueError: If there is no such task.
    """
    if task == "detect":
        return _Pipeline(_to_float(), before=_without_masks)
    if task == "classify":
        return _Pipeline([v2.Resize(_pair(size or 224)), *_to_float()])
    if task == "segment":
        return _Pipeline(_to_float())
    raise ValueError(f"expected task of detect, classify, segment, got {task!r}")


class ScaleJitter(v2.Transform):
    """Scales an image at random, then crops or pads it, at a random place, to a size.

    Args:
        scales: From, to; drawn evenly in the logarithm.
        size: Of what comes out; none: of what came in.
    """

    def __init__(self, scales: tuple[float, float], size: Size | None = None) -> None:
        super().__init__()
        self.scales, self.size = scales, size

    def forward(self, image: tv_tensors.Image, target: Any) -> tuple[tv_tensors.Image, Any]:
        height, width = v2.functional.get_size(image)
        low, high = torch.tensor(self.scales).log()
        scale = float(torch.empty(()).uniform_(float(low), float(high)).exp())
        size = _pair(self.size or (height, width))
        fit = min(size[0] / height, size[1] / width)
        resize = v2.Resize([max(round(side * scale * fit), 1) for side in (height, width)])
        crop = v2.RandomCrop(size, pad_if_needed=True, fill=_FILL)
        return crop(*resize(image, target))


class _Pipeline:
    def __init__(self, steps: list[v2.Transform], before: Callable[[Target], Target] | None = None) -> None:
        self.steps, self.before = v2.Compose(steps), before

    def __call__(self, image: tv_tensors.Image, target: Any) -> tuple[Tensor, Any]:
        return self.steps(image, self.before(target) if self.before else target)


def _ssd(size: Size | None) -> list[v2.Transform]:
    return [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=_FILL), v2.RandomIoUCrop()]


_DETECTION: dict[str, Callable[[Size | None], list[v2.Transform]]] = {
    "flip": lambda size: [],
    "jitter": lambda size: [ScaleJitter((0.8, 1.25), size)],
    "ssd": _ssd,
    "ssdlite": lambda size: [v2.RandomIoUCrop()],
}


def _colours() -> v2.Transform:
    return v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)


def _to_float() -> list[v2.Transform]:
    return [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.ToPureTensor()]


def _without_masks(target: Target) -> Target:
    return {key: value for key, value in target.items() if key != "masks"}


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
