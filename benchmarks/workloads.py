"""Realistic inputs: an image of 800 x 1216 pixels, its pyramid, anchors, objects and proposals.

Every function is deterministic in its arguments and returns float32 on the CPU; cases cast with ``.to(device, dtype)``.
Boxes are xyxy in pixels. :func:`use_boxes` puts real objects in the place of the synthetic ones.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .annotations import ImageBoxes, read_boxes

IMAGE_SIZE = (800, 1216)  # height, width: COCO's common 480 x 640 aspect after resizing, padded to 32
PYRAMID = ((200, 304), (100, 152), (50, 76), (25, 38), (13, 19))  # P2 to P6

_real_images: list[ImageBoxes] = []


def use_boxes(path: str | Path | None) -> None:
    """Takes objects from an annotation file from now on (:func:`.annotations.read_boxes`); None: synthetic again."""
    _real_images[:] = [] if path is None else read_boxes(path)


def generator(seed: int) -> torch.Generator:
    """A fresh CPU generator, for inputs that are not here."""
    return torch.Generator().manual_seed(seed)


def boxes_log_uniform(
    n: int,
    smallest: float = 16,
    largest: float = 500,
    aspect: float = 2,
    seed: int = 0,
    image_size: tuple[int, int] = IMAGE_SIZE,
) -> Tensor:
    """Boxes anywhere in the image, (n, 4).

    The square root of the area is log-uniform in ``smallest`` to ``largest``, width over height in 1/aspect to aspect.
    """
    return _boxes_log_uniform(n, smallest, largest, aspect, generator(seed), image_size)


def ground_truth(n: int, smallest: float = 24, largest: float = 500, seed: int = 0) -> Tensor:
    """Objects of one image, (n, 4): the real ones if :func:`use_boxes` was called, else log-uniform.

    Real boxes come from the image whose number of objects is nearest to ``n``, then from the next nearest until there
    are ``n``, scaled to 800 x 1216.
    """
    if not _real_images:
        return boxes_log_uniform(n, smallest, largest, seed=seed)
    height, width = IMAGE_SIZE
    nearest = sorted(_real_images, key=lambda image: abs(len(image.boxes) - n))
    boxes = torch.cat([i.boxes * torch.tensor([width / i.width, height / i.height] * 2) for i in nearest[: n + 1]])
    return boxes.repeat(-(-n // len(boxes)), 1)[:n].contiguous()


def proposals_clustered(n: int, objects: int = 40, background: float = 0.3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Proposals as a region proposal network gives: most jittered round objects, the others anywhere.

    Returns:
        Boxes (n, 4) and scores (n,) in 0 to 1, higher round objects, in random order.
    """
    random = generator(seed)
    centres = ground_truth(objects) if _real_images else _boxes_log_uniform(objects, 24, 500, 2, random, IMAGE_SIZE)
    near = round(n * (1 - background))
    chosen = centres[torch.randint(objects, (near,), generator=random)]
    size = chosen[:, 2:] - chosen[:, :2]
    centre = (chosen[:, :2] + chosen[:, 2:]) / 2 + 0.15 * torch.randn(near, 2, generator=random) * size
    size = size * torch.exp(0.25 * torch.randn(near, 2, generator=random))
    jittered = torch.cat([centre - size / 2, centre + size / 2], 1)
    elsewhere = _boxes_log_uniform(n - near, 16, 400, 2, random, IMAGE_SIZE)
    boxes = torch.cat([jittered, elsewhere])
    boxes[:, 0::2].clamp_(0, IMAGE_SIZE[1])
    boxes[:, 1::2].clamp_(0, IMAGE_SIZE[0])
    near_scores = 0.3 + 0.7 * torch.rand(near, generator=random)
    scores = torch.cat([near_scores, 0.6 * torch.rand(n - near, generator=random)])
    order = torch.randperm(n, generator=random)
    return boxes[order], scores[order]


def rotated(boxes: Tensor, seed: int, spread: float = math.pi) -> Tensor:
    """Boxes turned by up to ``spread`` radians either way, (n, 5) as centre, size and angle."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    angle = (2 * torch.rand(len(boxes), 1, generator=generator(seed)) - 1) * spread
    return torch.cat([centre, size, angle], dim=1)


def boxes_disjoint(n: int, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Boxes of 7 x 7 pixels on a lattice of 8, none touching another: everything survives NMS, its worst case.

    Returns:
        Boxes (n, 4) and scores (n,), in random order.
    """
    random = generator(seed)
    index = torch.randperm(n, generator=random)
    columns = max(160, math.isqrt(n))
    corner = 8.0 * torch.stack([index % columns, index // columns], 1)
    return torch.cat([corner, corner + 7], 1), torch.rand(n, generator=random)


def many_classes(classes: int, per_class: int, seed: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Each class's own clustered proposals, shuffled together.

    Returns:
        Boxes (n, 4), scores (n,) and classes (n,) int64, n = classes * per_class.
    """
    each = [proposals_clustered(per_class, seed=seed + label) for label in range(classes)]
    labels = torch.arange(classes).repeat_interleave(per_class)
    order = torch.randperm(classes * per_class, generator=generator(seed - 1))
    boxes, scores = (torch.cat(parts) for parts in zip(*each, strict=True))
    return boxes[order], scores[order], labels[order]


def anchors_fpn(sizes: Sequence[float] = (32, 64, 128, 256, 512), ratios: Sequence[float] = (0.5, 1, 2)) -> Tensor:
    """Anchors of a five-level pyramid of the image, (242991, 4), in the order of torchvision's ``AnchorGenerator``.

    As there, a level's stride is the image's size over the level's, rounded down.
    """
    levels = []
    for size, (rows, columns) in zip(sizes, PYRAMID, strict=True):
        root = torch.tensor(ratios).sqrt()
        half = torch.stack([size / root, size * root], 1) / 2
        cell = torch.cat([-half, half], 1).round()
        y = torch.arange(rows) * (IMAGE_SIZE[0] // rows)
        x = torch.arange(columns) * (IMAGE_SIZE[1] // columns)
        levels.append((_grid(x, y)[:, None] + cell).reshape(-1, 4))
    return torch.cat(levels)


def anchors_ssd() -> Tensor:
    """Default boxes of SSD300, (8732, 4), in the order of torchvision's, stretched from 300 x 300 to the image."""
    scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    levels = []
    for level, (cells, stride) in enumerate(((38, 8), (19, 16), (10, 32), (5, 64), (3, 100), (1, 300))):
        scale, larger = scales[level], math.sqrt(scales[level] * scales[level + 1])
        sides = [(scale, scale), (larger, larger)]
        for ratio in ratios[level]:
            root = math.sqrt(ratio)
            sides += [(scale * root, scale / root), (scale / root, scale * root)]
        half = torch.tensor(sides).clamp(0, 1) / 2
        centre = (torch.arange(cells) + 0.5) * stride / 300
        levels.append((_grid(centre, centre)[:, None] + torch.cat([-half, half], 1)).reshape(-1, 4))
    return torch.cat(levels) * torch.tensor([IMAGE_SIZE[1], IMAGE_SIZE[0]] * 2)


def pyramid_level(stride: int, channels: int = 256, images: int = 1, seed: int = 0) -> Tensor:
    """A feature map of the image, (images, channels, 800 / stride, 1216 / stride); VGG16's is ``(16, 512)``."""
    rows, columns = (-(-side // stride) for side in IMAGE_SIZE)
    return torch.randn(images, channels, rows, columns, generator=generator(seed))


def to_rois(boxes: Tensor | Sequence[Tensor]) -> Tensor:
    """Boxes of one image (K, 4), or of several, as regions (K, 5): image, x1, y1, x2, y2."""
    images = [boxes] if isinstance(boxes, Tensor) else boxes
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(images)])


def _boxes_log_uniform(
    n: int, smallest: float, largest: float, aspect: float, random: torch.Generator, image_size: tuple[int, int]
) -> Tensor:
    height, width = image_size
    side = smallest * (largest / smallest) ** torch.rand(n, generator=random)
    root = aspect ** (torch.rand(n, generator=random) - 0.5)
    w, h = (side * root).clamp(max=width - 1), (side / root).clamp(max=height - 1)
    x = torch.rand(n, generator=random) * (width - w)
    y = torch.rand(n, generator=random) * (height - h)
    return torch.stack([x, y, x + w, y + h], 1)


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """Points row by row as (x, y, x, y), (rows * columns, 4)."""
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, columns, rows], -1).reshape(-1, 4)
