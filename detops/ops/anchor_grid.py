"""Anchors of every location of a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _checks

_ANCHOR_GRID = torch.ops.detops.anchor_grid.default


def anchor_grid(
    cell_anchors: Sequence[Tensor],
    feature_sizes: Sequence[Sequence[int]],
    strides: Sequence[int | Sequence[int]],
) -> Tensor:
    """All anchors of a feature pyramid (https://arxiv.org/abs/1506.01497, section 3.1.1), every level in one pass.

    A level's cell anchors, moved to each of its locations: by ``(x * stride_x, y * stride_y)`` for column x of row y.
    The numbers and the order of torchvision's ``AnchorGenerator``: level by level, row by row, at each location in the
    order of the cell anchors.

    Args:
        cell_anchors: Of each level the anchors of its first location, corners in pixels, (A, 4); floating, one dtype.
        feature_sizes: Height and width of each level.
        strides: Pixels from one location to the next on each level, (vertical, horizontal) or one number for both.

    Returns:
        Corners in pixels, (sum of height * width * A, 4), of the dtype of ``cell_anchors``. Differentiable in these.

    Raises:
        RuntimeError: If a shape, dtype, device or number of levels is not as above, or a size is negative.
        ValueError: If an entry of ``feature_sizes`` or ``strides`` is not a pair.
    """
    if not cell_anchors:
        _checks.fail("anchor_grid", "expected cell_anchors of at least one level, got none")
    sizes = _flat("feature_sizes", feature_sizes)
    steps = _flat("strides", [(step, step) if isinstance(step, (int, torch.SymInt)) else step for step in strides])
    return _ANCHOR_GRID(list(cell_anchors), sizes, steps)


def _flat(name: str, pairs: Sequence[Sequence[int]]) -> list[int]:
    flat: list[int] = []
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"anchor_grid: expected {name}[{i}] (vertical, horizontal), got {pair}")
        flat += pair
    return flat


@torch.library.register_fake("detops::anchor_grid")
def _(cell_anchors: list[Tensor], sizes: list[int], strides: list[int]) -> Tensor:
    op, levels = "anchor_grid", len(cell_anchors)
    for name, pairs in (("feature_sizes", sizes), ("strides", strides)):
        if len(pairs) != 2 * levels:
            _checks.fail(op, f"expected {name} of {levels} levels, got {len(pairs) // 2}")
    total, first = 0, cell_anchors[0]
    for i, cell in enumerate(cell_anchors):
        name = f"cell_anchors[{i}]"
        height, width = sizes[2 * i : 2 * i + 2]
        _checks.check_floating(op, name, cell)
        _checks.check_shape(op, name, cell, (None, 4))
        _checks.check_same_dtype(op, "cell_anchors[0]", first, name, cell)
        _checks.check_same_device(op, "cell_anchors[0]", first, name, cell)
        if height < 0 or width < 0:
            _checks.fail(op, f"expected feature_sizes[{i}] of 0 or more, got ({height}, {width})")
        total = total + height * width * cell.shape[0]
    return first.new_empty((total, 4))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    cell_anchors, sizes, _ = inputs
    ctx.counts = [cell.shape[0] for cell in cell_anchors]
    ctx.locations = [height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True)]


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None, None]:
    """A cell anchor moves with every anchor that it became."""
    sizes = [locations * count for locations, count in zip(ctx.locations, ctx.counts, strict=True)]
    levels = zip(grad.split(sizes), ctx.locations, ctx.counts, strict=True)
    return [level.view(locations, count, 4).sum(0) for level, locations, count in levels], None, None


torch.library.register_autograd("detops::anchor_grid", _backward, setup_context=_setup)
