"""Images of any size to one batch for the network, and boxes back to each image."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
Target = dict[str, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

IGNORED = 255  # a pixel that is of no class


class ImageBatch(NamedTuple):
    """Images of one size, as the network sees them."""

    tensors: Tensor  # (B, 3, H, W), padded at the right and at the bottom with zeros
    sizes: list[Size]  # height and width of each image without the padding
    original_sizes: list[Size]  # and before it was resized


class Detections(NamedTuple):
    """The best detections of each image, in order of score; a fixed number D, padded at the end."""

    boxes: Tensor  # (B, D, 4), corners in pixels of the resized images
    scores: Tensor  # (B, D)
    labels: Tensor  # (B, D) int64
    number: Tensor  # (B,) int64, how many there are


class ImageTransform(nn.Module):
    """Resizes, normalises and batches images; scales boxes there and back. As torchvision's, in fewer passes.

    An image is scaled until its shorter side has ``min_size`` pixels, or less if the longer one would then exceed
    ``max_size`` (https://arxiv.org/abs/1504.08083, section 3), or to ``fixed_size`` whatever its shape.

    Args:
        min_size: Shorter side; of several, training draws one for each image, evaluation takes the last. None: images
            keep their size.
        max_size: Most pixels of the longer side.
        image_mean: Of each channel, for values in 0 to 1.
        image_std: Standard deviation of each channel.
        size_divisible: What height and width of the batch are rounded up to a multiple of.
        fixed_size: Height and width of every image.
    """

    def __init__(
        self,
        min_size: int | Sequence[int] | None = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
        fixed_size: Size | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size or ())
        self.max_size = max_size
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.size_divisible = size_divisible
        self.fixed_size = fixed_size
        sides = {"min_size": self.min_size, "max_size": self.min_size and (max_size,), "fixed_size": fixed_size or ()}
        for name, values in sides.items():
            if not all(isinstance(value, int) and value >= 1 for value in values):
                raise ValueError(f"expected {name} of whole pixels, at least 1, got {values}")

    def forward(self, images: Sequence[Tensor] | Tensor) -> ImageBatch:
        """Batch images (3, H, W), floating, values in 0 to 1, all of one dtype and device."""
        check_images(images)
        resized = [self._resize(image) for image in images]
        sizes = [_size(image) for image in resized]
        height, width = (_round_up(max(side), self.size_divisible) for side in zip(*sizes, strict=True))
        mean, std = (images[0].new_tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        batch = images[0].new_zeros(len(resized), 3, height, width)
        for place, image, (h, w) in zip(batch, resized, sizes, strict=True):
            place[:, :h, :w] = (image - mean).div_(std)
        return ImageBatch(batch, sizes, [_size(image) for image in images])

    def resize_targets(self, targets: Sequence[Target], batch: ImageBatch) -> list[Target]:
        """Targets with their boxes in pixels of the batch; all else as it is."""
        return [
            target | {"boxes": target["boxes"] * _ratios(target["boxes"], original, size)}
            for target, original, size in zip(targets, batch.original_sizes, batch.sizes, strict=True)
        ]

    def restore(self, detections: Detections, batch: ImageBatch) -> Detections:
        """Detections with their boxes in pixels of the images as they came."""
        ratios = [
            _ratios(detections.boxes, size, original)
            for size, original in zip(batch.sizes, batch.original_sizes, strict=True)
        ]
        return detections._replace(boxes=detections.boxes * torch.stack(ratios)[:, None])

    def _resize(self, image: Tensor) -> Tensor:
        size = self.fixed_size
        if size is None:
            if not self.min_size:
                return image
            scale = min(self._min_size() / min(_size(image)), self.max_size / max(_size(image)))
            size = (max(math.floor(image.shape[1] * scale), 1), max(math.floor(image.shape[2] * scale), 1))
        if size == _size(image):
            return image
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]

    def _min_size(self) -> int:
        if not self.training or len(self.min_size) == 1:
            return self.min_size[-1]
        return self.min_size[int(torch.randint(len(self.min_size), ()))]

    def extra_repr(self) -> str:
        size = self.fixed_size or f"min_size={self.min_size}, max_size={self.max_size}"
        return f"{size}, mean={self.image_mean}, std={self.image_std}"


def unpad(detections: Detections) -> list[dict[str, Tensor]]:
    """Of each image the detections that there are: boxes (N, 4), labels (N,), scores (N,)."""
    return [
        {"boxes": boxes[:n], "labels": labels[:n], "scores": scores[:n]}
        for boxes, scores, labels, n in zip(*detections[:3], detections.number.tolist(), strict=True)
    ]


def check_images(images: Sequence[Tensor] | Tensor) -> None:
    """Raise unless these are images (3, H, W), floating, of one dtype and device."""
    if len(images) == 0:
        raise ValueError("expected images of at least one, got none")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"expected images[{i}] of shape (3, H, W), got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"expected images[{i}] of a floating dtype, values in 0 to 1, got {image.dtype}")
        if image.dtype != images[0].dtype or image.device != images[0].device:
            raise ValueError(
                f"expected images of one dtype and device, {images[0].dtype} on {images[0].device},"
                f" got {image.dtype} on {image.device} in images[{i}]"
            )


def check_targets(targets: Sequence[Target] | None, num_images: int, labels: range) -> Sequence[Target]:
    """The targets, if there is one for each image, whose boxes have an area and labels are in range."""
    if targets is None:
        raise ValueError("expected targets in training, got None")
    if len(targets) != num_images:
        raise ValueError(f"expected targets of {num_images} images, got {len(targets)}")
    for i, target in enumerate(targets):
        for key in ("boxes", "labels"):
            if key not in target:
                raise ValueError(f'expected targets[{i}] to have "{key}", got {sorted(target)}')
        boxes, classes = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ValueError(
                f'expected targets[{i}]["boxes"] (N, 4), floating, got {tuple(boxes.shape)} of {boxes.dtype}'
            )
        if classes.shape != boxes.shape[:1] or classes.dtype != torch.int64:
            raise ValueError(
                f'expected targets[{i}]["labels"] ({len(boxes)},) of torch.int64,'
                f" got {tuple(classes.shape)} of {classes.dtype}"
            )
    _check_values(targets, labels)
    return targets


def _check_values(targets: Sequence[Target], labels: range) -> None:
    boxes = torch.cat([target["boxes"] for target in targets])
    classes = torch.cat([target["labels"] for target in targets])
    good = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)
    good &= (classes >= labels.start) & (classes < labels.stop)
    if good.all():  # one wait for the device, for all images
        return
    at = int(good.int().argmin())
    for i, target in enumerate(targets):
        if at < len(target["boxes"]):
            box, label = target["boxes"][at].tolist(), int(target["labels"][at])
            raise ValueError(
                f"expected targets[{i}] to have finite boxes (x1, y1, x2, y2) of positive width and height and labels"
                f" from {labels.start} to {labels.stop - 1}, got box {at} {box} of label {label}"
            )
        at -= len(target["boxes"])


def _ratios(like: Tensor, before: Size, after: Size) -> Tensor:
    """(4,): what corners are multiplied by, rounded to float32 as torchvision's are."""
    y, x = (
        torch.tensor(a, dtype=torch.float32) / torch.tensor(b, dtype=torch.float32)
        for a, b in zip(after, before, strict=True)
    )
    return torch.stack([x, y, x, y]).to(like)


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
