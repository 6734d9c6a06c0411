"""Overlap of rotated boxes."""

import torch
from torch import Tensor

from . import _checks

_MODES = ("iou", "iof")
_BOX_IOU_ROTATED = torch.ops.detops.box_iou_rotated.default


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, mode: str = "iou", aligned: bool = False, clockwise: bool = True
) -> Tensor:
    """Overlap of rotated boxes, every pair of two sets or pair by pair.

    Exact to rounding whatever the boxes: identical, one rounding error apart, touching, nested, long and thin, tiny or
    far from the origin. The overlap of a and b is that of b and a, and the same on every device.

    Args:
        boxes1: (N, 5) or (B, N, 5) as (cx, cy, w, h, angle), in pixels and radians, any real dtype.
        boxes2: (M, 5) or (B, M, 5); pair by pair as many as ``boxes1``.
        mode: "iou", intersection over union; "iof", intersection over the area of the box of ``boxes1``.
        aligned: Whether box i is compared with box i alone.
        clockwise: Whether angles grow from the x axis towards the y axis: clockwise in an image, whose y points down.

    Returns:
        (..., N, M), or (..., N) pair by pair, in [0, 1]; float64 if one of the inputs is, else float32. A box whose
        width, height or area is not above 0, with NaN or infinity, or with an angle beyond 2^29, overlaps none. Without
        gradient.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above.
        ValueError: If ``mode`` is neither of the two.
    """
    if mode not in _MODES:
        raise ValueError(f"box_iou_rotated: expected mode 'iou' or 'iof', got {mode!r}")
    return _BOX_IOU_ROTATED(boxes1.detach(), boxes2.detach(), mode == "iof", aligned, clockwise, False)


@torch.library.register_fake("detops::box_iou_rotated")
def _(boxes1: Tensor, boxes2: Tensor, over_first: bool, aligned: bool, clockwise: bool, degrees: bool) -> Tensor:
    op = "box_iou_rotated"
    _checks.check_real(op, "boxes1", boxes1)
    _checks.check_real(op, "boxes2", boxes2)
    batch = [boxes1.shape[0]] if boxes1.dim() == 3 else []
    _checks.check_shape(op, "boxes1", boxes1, [*batch, None, 5])
    _checks.check_shape(op, "boxes2", boxes2, [*batch, boxes1.shape[-2] if aligned else None, 5])
    _checks.check_same_device(op, "boxes1", boxes1, "boxes2", boxes2)
    dtype = torch.float64 if torch.float64 in (boxes1.dtype, boxes2.dtype) else torch.float32
    return boxes1.new_empty(boxes1.shape[:-1] if aligned else (*boxes1.shape[:-1], boxes2.shape[-2]), dtype=dtype)
