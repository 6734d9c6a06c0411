"""What the operators over regions share: arguments, checks for fake kernels, layouts of results."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks


def to_rois(op: str, boxes: Tensor | Sequence[Tensor], name: str = "boxes") -> Tensor:
    """Boxes as the caller gave them, (K, 5) or per image a tensor (L_i, 4), as (K, 5)."""
    if isinstance(boxes, Tensor):
        return boxes
    for i, of_image in enumerate(boxes):
        _checks.check_shape(op, f"{name}[{i}]", of_image, (None, 4))
    if not boxes:
        _checks.fail(op, f"expected {name} of at least one image, got an empty list")
    dtype = torch.float64 if any(b.dtype == torch.float64 for b in boxes) else torch.float32
    images = [b.new_full((b.shape[0], 1), i, dtype=dtype) for i, b in enumerate(boxes)]
    return torch.cat([torch.cat(images), torch.cat([b.to(dtype) for b in boxes])], dim=1)


def pair(op: str, output_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from a number for both, or the two."""
    if isinstance(output_size, int | torch.SymInt):
        return output_size, output_size
    if len(output_size) == 1:
        return output_size[0], output_size[0]
    if len(output_size) != 2:
        _checks.fail(op, f"expected output_size of one or two numbers, got {tuple(output_size)}")
    return output_size[0], output_size[1]


def check(op: str, name: str, maps: Tensor, rois: Tensor, pooled_height: int, pooled_width: int) -> None:
    """Raise what the host functions raise, apart from the values of ``rois``."""
    _checks.check_floating(op, name, maps)
    if name == "input":
        _checks.check_shape(op, "input", maps, (None, None, None, None))
    _checks.check_floating(op, "rois", rois)
    _checks.check_shape(op, "rois", rois, (None, 5))
    _checks.check_same_device(op, name, maps, "rois", rois)
    if pooled_height <= 0:
        _checks.fail(op, f"expected pooled_height of at least 1, got {pooled_height}")
    if pooled_width <= 0:
        _checks.fail(op, f"expected pooled_width of at least 1, got {pooled_width}")


def is_channels_last(maps: Tensor) -> bool:
    """Whether a pixel's channels are side by side in memory."""
    return bool(maps.stride(1) == 1 and maps.stride(3) != 1)


def new_maps(like: Tensor, sizes: Sequence[int], channels_last: bool) -> Tensor:
    """Uninitialised (N, C, H, W), contiguous or channels_last."""
    if not channels_last:
        return like.new_empty(sizes)
    n, c, h, w = sizes
    return like.new_empty_strided((n, c, h, w), (h * w * c, 1, w * c, c))


def fake_position_sensitive(op: str, input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int) -> Tensor:
    """The fake result of pooling with a channel for each bin."""
    check(op, "input", input, rois, pooled_height, pooled_width)
    bins, channels = pooled_height * pooled_width, input.shape[1]
    if channels % bins != 0:
        _checks.fail(op, f"expected input of a multiple of {bins} channels, one for each bin, got {channels}")
    sizes = (rois.shape[0], channels // bins, pooled_height, pooled_width)
    return new_maps(input, sizes, is_channels_last(input))


def fake_position_sensitive_backward(
    op: str, grad: Tensor, rois: Tensor, sizes: Sequence[int], channels_last: bool
) -> Tensor:
    """The fake gradient of the input."""
    check(op, "grad", grad, rois, 1, 1)
    _checks.check_shape(op, "grad", grad, (rois.shape[0], None, None, None))
    if grad.shape[1] * grad.shape[2] * grad.shape[3] != sizes[1]:
        _checks.fail(op, f"expected grad of {sizes[1]} values for each region, got ({', '.join(map(str, grad.shape))})")
    return new_maps(grad, sizes, channels_last)
