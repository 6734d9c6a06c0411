"""Non-maximum suppression: of boxes that overlap, only the one with the highest score is kept."""

import torch
from torch import Tensor

from . import _checks

_NMS = torch.ops.detops.nms.default
_BATCHED_NMS = torch.ops.detops.batched_nms.default
_NMS_PADDED = torch.ops.detops.nms_padded.default


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive non-maximum suppression, highest score first.

    Boxes are visited in descending order of score, the lower index first at equal scores and NaN before any number, as
    ``torch.sort`` does. A box is dropped if its IoU with one kept before it is above ``iou_threshold``. At a tie the
    quotient decides that is rounded to the precision of the boxes (float32 for half precision): the rule of
    torchvision's CPU kernel, here on every device.

    A box with NaN or infinite area neither drops others nor is dropped; nor does, at thresholds of 0 or more, one
    without area. A negative threshold keeps of all others the first alone; one of 1 or more drops nothing.

    Args:
        boxes: Corners, (N, 4), any real dtype; N below 2^32.
        scores: (N,), any real dtype.
        iou_threshold: Overlap in 0 to 1 above which a box is dropped.

    Returns:
        (K,) int64 on the device of ``boxes``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or ``iou_threshold`` is NaN.
    """
    return _NMS(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` of each class by itself: a box is only dropped by one of its own class.

    Boxes are grouped by class, not moved apart: no coordinates are lost, in half precision either.

    Args:
        boxes: Corners, (N, 4), any real dtype; N below 2^32.
        scores: (N,), any real dtype.
        idxs: Class, or image, of each box, (N,), any real dtype and value.
        iou_threshold: Overlap in 0 to 1 above which a box is dropped.

    Returns:
        (K,) int64, indices of the boxes kept; highest score first, the lower index first at equal scores.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or ``iou_threshold`` is NaN.
    """
    return _BATCHED_NMS(boxes, scores, idxs, iou_threshold)


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    idxs: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`nms` or :func:`batched_nms`, of one image or many, with an answer of fixed size.

    On a GPU it never waits for the device, as the other two do once, and can be captured in a CUDA graph.

    Args:
        boxes: Corners, (N, 4) or (B, N, 4), any real dtype; N below 2^32.
        scores: (N,) or (B, N), any real dtype.
        iou_threshold: Overlap in 0 to 1 above which a box is dropped.
        max_output: Boxes to keep at most, of each image.
        idxs: Class of each box, (N,) or (B, N), any real dtype; None: all alike.
        score_threshold: Boxes whose score is not above it are left out; None: none are.

    Returns:
        ``keep`` (max_output,) or (B, max_output) int64: the first indices that the other function returns, then -1;
        ``count`` () or (B,) int64: how many are not -1.

    Raises:
        RuntimeError: If a shape, dtype, device or ``max_output`` is not as above, or a threshold is NaN.
    """
    return _NMS_PADDED(boxes, scores, iou_threshold, max_output, idxs, score_threshold)


def _check(op: str, boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> None:
    _checks.check_real(op, "boxes", boxes)
    _checks.check_real(op, "scores", scores)
    if idxs is not None:
        _checks.check_real(op, "idxs", idxs)
    batch = [boxes.shape[0]] if boxes.dim() == 3 else []
    _checks.check_shape(op, "boxes", boxes, [*batch, None, 4])
    _checks.check_shape(op, "scores", scores, boxes.shape[:-1])
    if idxs is not None:
        _checks.check_shape(op, "idxs", idxs, boxes.shape[:-1])
    _checks.check_same_device(op, "boxes", boxes, "scores", scores)
    if idxs is not None:
        _checks.check_same_device(op, "boxes", boxes, "idxs", idxs)
    if iou_threshold != iou_threshold:
        _checks.fail(op, "expected iou_threshold to be a number, got nan")


def _indices(boxes: Tensor) -> Tensor:
    """As many indices as the data will tell, 0 and 1 included."""
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.register_fake("detops::nms")
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    _checks.check_shape("nms", "boxes", boxes, [None, 4])
    _check("nms", boxes, scores, None, iou_threshold)
    return _indices(boxes)


@torch.library.register_fake("detops::batched_nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    _checks.check_shape("batched_nms", "boxes", boxes, [None, 4])
    _check("batched_nms", boxes, scores, idxs, iou_threshold)
    return _indices(boxes)


@torch.library.register_fake("detops::nms_padded")
def _(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    idxs: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    _check("nms_padded", boxes, scores, idxs, iou_threshold)
    if max_output < 0:
        _checks.fail("nms_padded", f"expected max_output to be 0 or more, got {max_output}")
    if score_threshold is not None and score_threshold != score_threshold:
        _checks.fail("nms_padded", "expected score_threshold to be a number, got nan")
    keep = boxes.new_empty((*boxes.shape[:-2], max_output), dtype=torch.int64)
    return keep, boxes.new_empty(boxes.shape[:-2], dtype=torch.int64)
