"""Non-maximum suppression of rotated boxes."""

import torch
from torch import Tensor

from . import _checks

_NMS_ROTATED = torch.ops.detops.nms_rotated.default
_NMS_ROTATED_PADDED = torch.ops.detops.nms_rotated_padded.default


def nms_rotated(
    dets: Tensor, scores: Tensor, iou_threshold: float, labels: Tensor | None = None, clockwise: bool = True
) -> tuple[Tensor, Tensor]:
    """Rotated boxes that survive non-maximum suppression, highest score first.

    The order, and what happens at equal scores and NaN, is that of :func:`detops.ops.nms`. A box is dropped if
    :func:`detops.ops.box_iou_rotated` of it and one kept before it, of the same label, is above ``iou_threshold``: not
    at the threshold itself, on any device. A box that overlaps none whatever the other (see there) neither drops others
    nor is dropped. A negative threshold keeps of all others the first alone; one of 1 or more drops nothing.

    Args:
        dets: (N, 5) as (cx, cy, w, h, angle), in pixels and radians, any real dtype; N below 2^32.
        scores: (N,), any real dtype.
        iou_threshold: Overlap in 0 to 1 above which a box is dropped.
        labels: Class of each box, (N,), any real dtype and value; None: all alike.
        clockwise: Whether angles grow from the x axis towards the y axis: clockwise in an image, whose y points down.

    Returns:
        The boxes kept, (K, 6), each followed by its score; and their indices, (K,) int64. The first is differentiable
        in ``dets`` and ``scores``.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or ``iou_threshold`` is NaN.
    """
    keep = _NMS_ROTATED(dets.detach(), scores.detach(), iou_threshold, labels, clockwise)
    return torch.cat([dets[keep], scores[keep].unsqueeze(1)], dim=1), keep


def nms_rotated_padded(
    dets: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    labels: Tensor | None = None,
    clockwise: bool = True,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`nms_rotated`, of one image or many, with an answer of fixed size.

    On a GPU it never waits for the device, as the other does once, and can be captured in a CUDA graph.

    Args:
        dets: (N, 5) or (B, N, 5) as (cx, cy, w, h, angle), in pixels and radians, any real dtype; N below 2^32.
        scores: (N,) or (B, N), any real dtype.
        iou_threshold: Overlap in 0 to 1 above which a box is dropped.
        max_output: Boxes to keep at most, of each image.
        labels: Class of each box, (N,) or (B, N), any real dtype; None: all alike.
        clockwise: Whether angles grow from the x axis towards the y axis.
        score_threshold: Boxes whose score is not above it are left out; None: none are.

    Returns:
        ``keep`` (max_output,) or (B, max_output) int64: the first indices that the other function returns, then -1;
        ``count`` () or (B,) int64: how many are not -1.

    Raises:
        RuntimeError: If a shape, dtype, device or ``max_output`` is not as above, or a threshold is NaN.
    """
    return _NMS_ROTATED_PADDED(
        dets.detach(), scores.detach(), iou_threshold, max_output, labels, clockwise, score_threshold
    )


def _check(op: str, dets: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> None:
    _checks.check_real(op, "dets", dets)
    _checks.check_real(op, "scores", scores)
    if labels is not None:
        _checks.check_real(op, "labels", labels)
    batch = [dets.shape[0]] if dets.dim() == 3 else []
    _checks.check_shape(op, "dets", dets, [*batch, None, 5])
    _checks.check_shape(op, "scores", scores, dets.shape[:-1])
    if labels is not None:
        _checks.check_shape(op, "labels", labels, dets.shape[:-1])
    _checks.check_same_device(op, "dets", dets, "scores", scores)
    if labels is not None:
        _checks.check_same_device(op, "dets", dets, "labels", labels)
    if iou_threshold != iou_threshold:
        _checks.fail(op, "expected iou_threshold to be a number, got nan")


@torch.library.register_fake("detops::nms_rotated")
def _(
    dets: Tensor, scores: Tensor, iou_threshold: float, labels: Tensor | None = None, clockwise: bool = True
) -> Tensor:
    _checks.check_shape("nms_rotated", "dets", dets, [None, 5])
    _check("nms_rotated", dets, scores, labels, iou_threshold)
    return dets.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.register_fake("detops::nms_rotated_padded")
def _(
    dets: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    labels: Tensor | None = None,
    clockwise: bool = True,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    op = "nms_rotated_padded"
    _check(op, dets, scores, labels, iou_threshold)
    if max_output < 0:
        _checks.fail(op, f"expected max_output to be 0 or more, got {max_output}")
    if score_threshold is not None and score_threshold != score_threshold:
        _checks.fail(op, "expected score_threshold to be a number, got nan")
    keep = dets.new_empty((*dets.shape[:-2], max_output), dtype=torch.int64)
    return keep, dets.new_empty(dets.shape[:-2], dtype=torch.int64)
