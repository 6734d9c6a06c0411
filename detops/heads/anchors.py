"""Where predictions start from: anchors at every location of every level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import anchor_grid

Sizes = Sequence[Sequence[float]]
CellSizes = Sequence[Sequence[Sequence[float]]]  # of each level, of each of its anchors: width, height


class AnchorGenerator(nn.Module):
    """Anchors of several sizes and shapes around the corner of each location, as torchvision's.

    "Faster R-CNN" (https://arxiv.org/abs/1506.01497), section 3.1.1.

    Args:
        sizes: Of each level the square roots of the anchors' areas, in pixels.
        aspect_ratios: Height over width of each level's anchors; or of every level's, if there is one entry.
        rounded: To whole pixels, as torchvision's; mmdet's are not.
        steps: Pixels from one location of a level to the next, as mmdet's; None: the image's over the level's size.
    """

    def __init__(
        self,
        sizes: Sizes,
        aspect_ratios: Sizes = ((0.5, 1.0, 2.0),),
        rounded: bool = True,
        steps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.steps = steps
        ratios = list(aspect_ratios) * len(sizes) if len(aspect_ratios) == 1 else list(aspect_ratios)
        self._set_cells([cell_anchors(size, ratio, rounded) for size, ratio in zip(sizes, ratios, strict=True)])

    @classmethod
    def of_sizes(cls, sizes: CellSizes, steps: Sequence[int] | None = None) -> "AnchorGenerator":
        """Anchors of the widths and heights given, in pixels, as many for each level; such as were fitted to data.

        Raises:
            ValueError: If levels differ in their number of anchors, or a size is not positive.
        """
        if len({len(level) for level in sizes}) != 1:
            raise ValueError(f"expected as many anchors for each level, got {[len(level) for level in sizes]}")
        generator = cls((), steps=steps)
        halves = [_checked(level) / 2 for level in sizes]
        generator._set_cells([torch.cat([-half, half], dim=1) for half in halves])
        return generator

    def _set_cells(self, cells: Sequence[Tensor]) -> None:
        self.per_location = [len(level) for level in cells]
        for i, level in enumerate(cells):
            self.register_buffer(f"cells_{i}", level, persistent=False)

    @property
    def sizes(self) -> list[Tensor]:
        """Of each level its anchors' widths and heights, (A, 2), in pixels."""
        cells = [self.get_buffer(f"cells_{i}") for i in range(len(self.per_location))]
        return [cell[:, 2:] - cell[:, :2] for cell in cells]

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Anchors of all levels, (N, 4), in pixels of the batch; in float32 for half-precision features."""
        sizes = [(f.shape[2], f.shape[3]) for f in features]
        if self.steps is None:
            strides = [(image_size[0] // h, image_size[1] // w) for h, w in sizes]
        else:
            strides = [(step, step) for step in self.steps]
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        cells = [self.get_buffer(f"cells_{i}").to(dtype) for i in range(len(features))]
        return anchor_grid(cells, sizes, strides)


def check_levels(sizes: CellSizes, levels: int) -> None:
    """Raise unless there are sizes for so many levels."""
    if len(sizes) != levels:
        raise ValueError(f"expected anchor_sizes of {levels} levels, got {len(sizes)}")


def _checked(level: Sequence[Sequence[float]]) -> Tensor:
    """(A, 2): widths and heights."""
    sizes = torch.as_tensor(level, dtype=torch.float32)
    if sizes.dim() != 2 or sizes.shape[1] != 2 or not (sizes > 0).all():
        raise ValueError(f"expected anchors' widths and heights above 0, got {level}")
    return sizes


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], rounded: bool = True) -> Tensor:
    """Anchors around (0, 0), (len(aspect_ratios) * len(sizes), 4), rounded to whole pixels or not."""
    side = torch.as_tensor(sizes, dtype=torch.float32)
    tall = torch.as_tensor(aspect_ratios, dtype=torch.float32).sqrt()
    widths, heights = ((1 / tall)[:, None] * side).flatten(), (tall[:, None] * side).flatten()
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounded else anchors


class DefaultBoxes(nn.Module):
    """SSD's anchors, which grow from level to level (https://arxiv.org/abs/1512.02325, section 2.2), as torchvision's.

    Args:
        aspect_ratios: Of each level the ratios that, beside 1, its boxes have; each also upside down.
        min_ratio: Side of the first level's boxes over the image's.
        max_ratio: Of the last level's.
        scales: Sides of each level's boxes and of one more, in place of the two ratios.
        steps: Pixels from one location of a level to the next; None: the image's over the level's size.
    """

    def __init__(
        self,
        aspect_ratios: Sizes,
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        scales: Sequence[float] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        levels = len(aspect_ratios)
        if scales is None:
            growth = (max_ratio - min_ratio) / max(1, levels - 1)
            scales = [*(min_ratio + growth * k for k in range(levels)), 1.0]
        for name, values, expected in (("scales", scales, levels + 1), ("steps", steps, levels)):
            if values is not None and len(values) != expected:
                raise ValueError(f"DefaultBoxes: expected {name} of {expected} levels, got {len(values)}")
        self.steps = steps
        self._set_sizes([_default_sizes(scales[i], scales[i + 1], ratios) for i, ratios in enumerate(aspect_ratios)])

    @classmethod
    def of_sizes(cls, sizes: CellSizes, steps: Sequence[int] | None = None) -> "DefaultBoxes":
        """Default boxes of the widths and heights given, as shares of the image's; such as were fitted to data.

        Raises:
            ValueError: If a size is not positive.
        """
        boxes = cls(())
        boxes.steps = steps
        boxes._set_sizes([_checked(level) for level in sizes])
        return boxes

    def _set_sizes(self, sizes: Sequence[Tensor]) -> None:
        self.per_location = [len(level) for level in sizes]
        for i, level in enumerate(sizes):
            self.register_buffer(f"sizes_{i}", level, persistent=False)

    @property
    def sizes(self) -> list[Tensor]:
        """Of each level its boxes' widths and heights, (A, 2), as shares of the image's."""
        return [self.get_buffer(f"sizes_{i}") for i in range(len(self.per_location))]

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Boxes of all levels, (N, 4), in pixels of the batch; in float32 for half-precision features."""
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        height, width = image_size
        boxes = []
        for i, feature in enumerate(features):
            sizes = self.get_buffer(f"sizes_{i}")
            rows, columns = feature.shape[2:] if self.steps is None else (side / self.steps[i] for side in image_size)
            y, x = (
                (torch.arange(n, device=feature.device) + 0.5) / cells
                for n, cells in zip(feature.shape[2:], (rows, columns), strict=True)
            )
            centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 1, 2).to(dtype)
            half = 0.5 * sizes.float().to(dtype)
            boxes.append(torch.cat([centres - half, centres + half], dim=2).view(-1, 4))
        return torch.cat(boxes) * torch.tensor([width, height, width, height], device=features[0].device)


def _default_sizes(scale: float, next_scale: float, aspect_ratios: Sequence[float]) -> Tensor:
    """Widths and heights over the image's, (2 + 2 * len(aspect_ratios), 2)."""
    between = math.sqrt(scale * next_scale)
    sizes = [(scale, scale), (between, between)]
    for ratio in aspect_ratios:
        wide, narrow = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sizes += [(wide, narrow), (narrow, wide)]
    return torch.tensor(sizes, dtype=torch.float32).clamp(max=1)
