"""Filtering of boxes by their size."""

import torch
from torch import Tensor

from . import _checks

_REMOVE_SMALL_BOXES = torch.ops.detops.remove_small_boxes.default


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes whose width and height are both at least ``min_size``.

    As torchvision's: sides are computed in the dtype of ``boxes``, and ``min_size`` is rounded to it, or to float32 for
    integers. A box with NaN is left out, as is every box where ``min_size`` is NaN. On a GPU it waits for the device
    once, for the number of boxes.

    Args:
        boxes: Corners in pixels, (N, 4), any real dtype.
        min_size: Least side in pixels.

    Returns:
        (K,) int64 on the device of ``boxes``, ascending.

    Raises:
        RuntimeError: If the shape or dtype is not as above.
    """
    return _REMOVE_SMALL_BOXES(boxes, min_size)


@torch.library.register_fake("detops::remove_small_boxes")
def _(boxes: Tensor, min_size: float) -> Tensor:
    _checks.check_real("remove_small_boxes", "boxes", boxes)
    _checks.check_shape("remove_small_boxes", "boxes", boxes, [None, 4])
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
