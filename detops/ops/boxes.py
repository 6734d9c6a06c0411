"""Areas, formats and clipping of boxes: element-wise helpers that need no kernel of their own."""

import torch
from torch import Tensor

_Columns = tuple[Tensor, ...]

_FORMATS = ("xyxy", "xywh", "cxcywh")
_ROTATED_FORMATS = {"cxcywhr": 5, "xywhr": 5, "xyxyxyxy": 8}


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Areas of boxes.

    Args:
        boxes: (..., 4), any real dtype.
        fmt: How a box is given: "xyxy" corners, "xywh" or "cxcywh".

    Returns:
        (...,); float32 for float16 and bfloat16, int32 for shorter integers, else the dtype of ``boxes``.
        Differentiable.

    Raises:
        ValueError: If ``fmt`` is none of the three or the last dimension is not 4.
    """
    _check_format("box_area", "fmt", fmt)
    _check_boxes("box_area", boxes)
    x1, y1, x2, y2 = _upcast(boxes).unbind(-1)
    return (x2 - x1) * (y2 - y1) if fmt == "xyxy" else x2 * y2


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Convert boxes from one format to another, upright to upright or rotated to rotated.

    Upright: "xyxy" corners, "xywh" corner and size, "cxcywh" centre and size. Rotated, by an angle in degrees,
    counter-clockwise as seen in the image: "cxcywhr" centre, size and angle, "xywhr" first corner, size and angle,
    "xyxyxyxy" the four corners in order.

    Args:
        boxes: (..., 4), (..., 5) with an angle, or (..., 8) as four corners.
        in_fmt: Format given.
        out_fmt: Format wanted.

    Returns:
        A new tensor of the dtype of ``boxes``, but that an upright box of integers with a halved size becomes float32.
        Differentiable.

    Raises:
        ValueError: If a format is unknown, one is upright and the other rotated, or the last dimension does not fit.
    """
    for name, fmt in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if fmt not in _FORMATS and fmt not in _ROTATED_FORMATS:
            raise ValueError(f"box_convert: expected {name} one of {(*_FORMATS, *_ROTATED_FORMATS)}, got {fmt!r}")
    if (in_fmt in _FORMATS) != (out_fmt in _FORMATS):
        raise ValueError(
            f"box_convert: expected out_fmt of the kind, upright or rotated, of {in_fmt!r}, got {out_fmt!r}"
        )
    _check_boxes("box_convert", boxes, 4 if in_fmt in _FORMATS else _ROTATED_FORMATS[in_fmt])
    if in_fmt == out_fmt:
        return boxes.clone()
    if in_fmt in _FORMATS:
        return torch.stack(_from_corners(_to_corners(boxes, in_fmt), out_fmt), dim=-1)
    converted = torch.stack(_from_centre(_to_centre(boxes, in_fmt), out_fmt), dim=-1)
    return converted if boxes.is_floating_point() else converted.round().to(boxes.dtype)


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


def _to_corners(boxes: Tensor, fmt: str) -> _Columns:
    a, b, c, d = boxes.unbind(-1)
    if fmt == "cxcywh":
        return a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    return (a, b, a + c, b + d) if fmt == "xywh" else (a, b, c, d)


def _from_corners(corners: _Columns, fmt: str) -> _Columns:
    x1, y1, x2, y2 = corners
    if fmt == "cxcywh":
        return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    return (x1, y1, x2 - x1, y2 - y1) if fmt == "xywh" else corners


def _to_centre(boxes: Tensor, fmt: str) -> _Columns:
    """Columns of centre, size and angle in degrees."""
    if fmt == "cxcywhr":
        return boxes.unbind(-1)
    if fmt == "xywhr":
        x1, y1, w, h, angle = boxes.unbind(-1)
    else:
        x1, y1, x2, y2, x3, y3, _, _ = boxes.unbind(-1)
        w, h = torch.hypot(_floating(x2 - x1), _floating(y2 - y1)), torch.hypot(_floating(x3 - x2), _floating(y3 - y2))
        angle = torch.rad2deg(torch.atan2(y1 - y2, x2 - x1))
    cos, sin = _direction(angle)
    return x1 + w / 2 * cos + h / 2 * sin, y1 - w / 2 * sin + h / 2 * cos, w, h, angle


def _from_centre(columns: _Columns, fmt: str) -> _Columns:
    cx, cy, w, h, angle = columns
    if fmt == "cxcywhr":
        return columns
    cos, sin = _direction(angle)
    x1, y1 = cx - w / 2 * cos - h / 2 * sin, cy - h / 2 * cos + w / 2 * sin
    if fmt == "xywhr":
        return x1, y1, w, h, angle
    x2, y2 = x1 + w * cos, y1 - w * sin
    return x1, y1, x2, y2, x2 + h * sin, y2 + h * cos, x1 + h * sin, y1 + h * cos


def _direction(angle: Tensor) -> tuple[Tensor, Tensor]:
    radians = torch.deg2rad(_floating(angle))
    return torch.cos(radians), torch.sin(radians)


def _floating(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor.float()


def _check_boxes(op: str, boxes: Tensor, columns: int = 4) -> None:
    if boxes.dim() == 0 or boxes.shape[-1] != columns:
        raise ValueError(f"{op}: expected boxes of shape (*, {columns}), got {tuple(boxes.shape)}")


def _check_format(op: str, name: str, fmt: str) -> None:
    if fmt not in _FORMATS:
        raise ValueError(f"{op}: expected {name} 'xyxy', 'xywh' or 'cxcywh', got {fmt!r}")


def _upcast(boxes: Tensor) -> Tensor:
    """Sums and products of box coordinates need more bits than the coordinates."""
    if boxes.is_floating_point():
        return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes
    return boxes if boxes.dtype in (torch.int32, torch.int64) else boxes.int()
