"""Areas, formats, clipping and filtering of boxes: element-wise helpers that need no kernel of their own."""

import torch
from torch import Tensor

_FORMATS = ("xyxy", "xywh", "cxcywh")


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Areas of boxes.

    Args:
        boxes: (..., 4), any real dtype.
        fmt: How a box is given: "xyxy" corners, "xywh" or "cxcywh".

    Returns:
        (...,); float32 for float16 and bfloat16, int64 for integers, else the dtype of ``boxes``. Differentiable.

    Raises:
        ValueError: If ``fmt`` is none of the three or the last dimension is not 4.
    """
    _check_format("box_area", "fmt", fmt)
    _check_boxes("box_area", boxes)
    x1, y1, x2, y2 = _upcast(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1) if fmt == "xyxy" else x2 * y2


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Convert boxes from one format to another.

    Args:
        boxes: (..., 4).
        in_fmt: Format given: "xyxy" corners, "xywh" corner and size, or "cxcywh" centre and size.
        out_fmt: Format wanted.

    Returns:
        (..., 4), a new tensor of the dtype of ``boxes``. Differentiable.

    Raises:
        ValueError: If a format is none of the three or the last dimension is not 4.
    """
    _check_format("box_convert", "in_fmt", in_fmt)
    _check_format("box_convert", "out_fmt", out_fmt)
    _check_boxes("box_convert", boxes)
    if in_fmt == out_fmt:
        return boxes.clone()
    a, b, c, d = boxes.unbind(-1)
    if in_fmt == "cxcywh":
        x1, y1, x2, y2 = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    elif in_fmt == "xywh":
        x1, y1, x2, y2 = a, b, a + c, b + d
    else:
        x1, y1, x2, y2 = a, b, c, d
    if out_fmt == "xywh":
        converted = (x1, y1, x2 - x1, y2 - y1)
    elif out_fmt == "cxcywh":
        converted = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    else:
        converted = (x1, y1, x2, y2)
    return torch.stack(converted, dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Move corners that lie outside an image onto its border.

    Args:
        boxes: Corners in pixels, (..., 4).
        size: Height and width of the image.

    Returns:
        (..., 4), a new tensor of the dtype of ``boxes``. Differentiable.

    Raises:
        ValueError: If the last dimension is not 4.
    """
    _check_boxes("clip_boxes_to_image", boxes)
    height, width = size
    clipped = (boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height))
    return torch.stack(clipped, dim=boxes.dim()).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes whose width and height are both at least ``min_size``.

    Args:
        boxes: Corners in pixels, (N, 4).
        min_size: Least side in pixels.

    Returns:
        (K,) int64, ascending.

    Raises:
        ValueError: If ``boxes`` is not (N, 4).
    """
    if boxes.dim() != 2:
        raise ValueError(f"remove_small_boxes: expected boxes of shape (*, 4), got {tuple(boxes.shape)}")
    _check_boxes("remove_small_boxes", boxes)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sizes >= min_size).all(dim=1))[0]


def _check_boxes(op: str, boxes: Tensor) -> None:
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{op}: expected boxes of shape (*, 4), got {tuple(boxes.shape)}")


def _check_format(op: str, name: str, fmt: str) -> None:
    if fmt not in _FORMATS:
        raise ValueError(f"{op}: expected {name} 'xyxy', 'xywh' or 'cxcywh', got {fmt!r}")


def _upcast(boxes: Tensor) -> Tensor:
    """Sums and products of box coordinates need more bits than the coordinates."""
    if boxes.is_floating_point():
        return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes
    return boxes.long()
