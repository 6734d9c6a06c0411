"""Soft-NMS: a box that overlaps a better one loses score, not its place."""

import torch
from torch import Tensor

from . import _checks

_SOFT_NMS = torch.ops.detops.soft_nms.default
_SOFT_NMS_PADDED = torch.ops.detops.soft_nms_padded.default
_METHODS = {"naive": 0, "linear": 1, "gaussian": 2}


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (https://arxiv.org/abs/1704.04503), as ``mmcv.ops.soft_nms``.

    Again and again the best box left is taken, and lowers the scores of the others by its IoU with them: "linear"
    multiplies by ``1 - iou`` where the IoU is at least ``iou_threshold``, "naive" by 0 there, "gaussian" everywhere by
    ``exp(-iou**2 / sigma)``. Others whose score is then below ``min_score`` are dropped, so that the best box of all is
    kept whatever its score. At equal scores the lowest index is first.

    The IoU of boxes without area, or with NaN or infinite area, counts as 0. Boxes with a score of NaN or -infinity are
    dropped.

    Args:
        boxes: Corners, (N, 4), any real dtype; N below 2^32.
        scores: (N,), any real dtype.
        iou_threshold: IoU from which "linear" and "naive" lower a score.
        sigma: How far "gaussian" reaches; above 0.
        min_score: Least score of a box that is kept.
        method: "naive", "linear" or "gaussian".

    Returns:
        ``dets`` (K, 5): corners and lowered score, in the order taken, which is that of the scores; float64 if one of
        the inputs is, else float32. ``keep`` (K,) int64: indices of these boxes. Without gradient.

    Raises:
        RuntimeError: If a shape, dtype, device or value is not as above.
        ValueError: If ``method`` is none of the three.
    """
    return _SOFT_NMS(boxes.detach(), scores.detach(), iou_threshold, sigma, min_score, _number("soft_nms", method))


def soft_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    max_output: int,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`soft_nms`, of one image or many, with an answer of fixed size; does not wait for a GPU.

    Args:
        boxes: Corners, (N, 4) or (B, N, 4), any real dtype; N below 2^32.
        scores: (N,) or (B, N), any real dtype.
        max_output: Boxes to take at most, of each image.
        iou_threshold: IoU from which "linear" and "naive" lower a score.
        sigma: How far "gaussian" reaches; above 0.
        min_score: Least score of a box that is kept.
        method: "naive", "linear" or "gaussian".

    Returns:
        ``dets`` (max_output, 5) or (B, max_output, 5): the first rows that the other function returns, then zeros.
        ``keep`` (max_output,) or (B, max_output) int64: the indices, then -1. ``count`` () or (B,) int64: how many are
        not -1.

    Raises:
        RuntimeError: If a shape, dtype, device or value is not as above.
        ValueError: If ``method`` is none of the three.
    """
    number = _number("soft_nms_padded", method)
    return _SOFT_NMS_PADDED(boxes.detach(), scores.detach(), max_output, iou_threshold, sigma, min_score, number)


def _number(op: str, method: str) -> int:
    if method not in _METHODS:
        raise ValueError(f"{op}: expected method 'naive', 'linear' or 'gaussian', got {method!r}")
    return _METHODS[method]


def _check(
    op: str, boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int
) -> None:
    _checks.check_real(op, "boxes", boxes)
    _checks.check_real(op, "scores", scores)
    batch = [boxes.shape[0]] if boxes.dim() == 3 else []
    _checks.check_shape(op, "boxes", boxes, [*batch, None, 4])
    _checks.check_shape(op, "scores", scores, boxes.shape[:-1])
    _checks.check_same_device(op, "boxes", boxes, "scores", scores)
    if iou_threshold != iou_threshold:
        _checks.fail(op, "expected iou_threshold to be a number, got nan")
    if not sigma > 0:
        _checks.fail(op, f"expected sigma above 0, got {sigma}")
    if min_score != min_score:
        _checks.fail(op, "expected min_score to be a number, got nan")
    if not 0 <= method <= 2:
        _checks.fail(op, f"expected method from 0 to 2, got {method}")


def _dtype(boxes: Tensor, scores: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32


@torch.library.register_fake("detops::soft_nms")
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int
) -> tuple[Tensor, Tensor]:
    _checks.check_shape("soft_nms", "boxes", boxes, [None, 4])
    _check("soft_nms", boxes, scores, iou_threshold, sigma, min_score, method)
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept, 5), dtype=_dtype(boxes, scores)), boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("detops::soft_nms_padded")
def _(
    boxes: Tensor,
    scores: Tensor,
    max_output: int,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check("soft_nms_padded", boxes, scores, iou_threshold, sigma, min_score, method)
    if max_output < 0:
        _checks.fail("soft_nms_padded", f"expected max_output to be 0 or more, got {max_output}")
    images = boxes.shape[:-2]
    dets = boxes.new_empty((*images, max_output, 5), dtype=_dtype(boxes, scores))
    keep = boxes.new_empty((*images, max_output), dtype=torch.int64)
    return dets, keep, boxes.new_empty(images, dtype=torch.int64)
