"""What the operators over regions share: arguments, checks for fake kernels, layouts of results, registration."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


class Pool(nn.Module):
    """Base of the modules: their settings."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def extra_repr(self) -> str:
        settings = ((name, value) for name, value in vars(self).items() if not name.startswith("_"))
        return ", ".join(f"{name}={value}" for name, value in settings if name != "training")


def check(
    op: str, name: str, maps: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, columns: int = 5
) -> None:
    """Raise what the host functions raise, apart from the values of ``rois``."""
    _checks.check_floating(op, name, maps)
    if name == "input":
        _checks.check_shape(op, "input", maps, (None, None, None, None))
    _checks.check_floating(op, "rois", rois)
    _checks.check_shape(op, "rois", rois, (None, columns))
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


def register_fake_pool(name: str, columns: int = 5) -> None:
    """The fake of ``name(input, rois, spatial_scale, pooled_height, pooled_width, *sampling)``, all channels pooled."""

    def fake(
        input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, *sampling: Any
    ) -> Tensor:
        check(name, "input", input, rois, pooled_height, pooled_width, columns)
        sizes = (rois.shape[0], input.shape[1], pooled_height, pooled_width)
        return new_maps(input, sizes, is_channels_last(input))

    torch.library.register_fake(f"detops::{name}", fake)


def register_fake_gradient(name: str, columns: int = 5) -> None:
    """The fake of ``<name>_backward(grad, rois, spatial_scale, pooled_height, pooled_width, *shape, ..., layout)``.

    ``shape`` is the input's, ``layout`` whether it is channels_last.
    """
    op = f"{name}_backward"

    def fake(
        grad: Tensor,
        rois: Tensor,
        spatial_scale: float,
        pooled_height: int,
        pooled_width: int,
        batch: int,
        channels: int,
        height: int,
        width: int,
        *others: Any,
    ) -> Tensor:
        check(op, "grad", grad, rois, pooled_height, pooled_width, columns)
        _checks.check_shape(op, "grad", grad, (rois.shape[0], channels, pooled_height, pooled_width))
        return new_maps(grad, (batch, channels, height, width), others[-1])

    torch.library.register_fake(f"detops::{op}", fake)


def check_pooled(
    op: str, grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int
) -> None:
    """What backward operators that are given the input check."""
    check(op, "input", input, rois, pooled_height, pooled_width)
    _checks.check_shape(op, "grad", grad, (rois.shape[0], input.shape[1], pooled_height, pooled_width))
    _checks.check_same_dtype(op, "input", input, "grad", grad)
    _checks.check_same_device(op, "input", input, "grad", grad)


def register_linear(name: str, columns: int = 5) -> None:
    """Fakes and autograd of a pool that is linear in its input, so that its gradient's gradient is itself.

    ``name(input, rois, spatial_scale, pooled_height, pooled_width, *sampling)`` and
    ``<name>_backward(grad, rois, spatial_scale, pooled_height, pooled_width, *shape, *sampling, channels_last)``.
    """
    register_fake_pool(name, columns)
    register_fake_gradient(name, columns)
    forward, backward = _operators(name)

    def gradient(grad: Tensor, rois: Tensor, grid: Sequence[Any], sizes: Sequence[int], channels_last: bool) -> Tensor:
        return backward(grad, rois, *grid[:3], *sizes, *grid[3:], channels_last)

    def grid_of_backward(grad: Tensor, grid: Sequence[Any]) -> Sequence[Any]:
        return (*grid[:3], *grid[7:])  # but for the input's shape

    _register_autograd(name, forward, gradient, grid_of_backward)


def register_position_sensitive(name: str) -> None:
    """Fakes and autograd of pooling with a channel for each bin, which is linear in its input.

    ``name(input, rois, spatial_scale, pooled_height, pooled_width, *sampling)`` and
    ``<name>_backward(grad, rois, spatial_scale, *sampling, *shape, channels_last)``.
    """
    op = f"{name}_backward"
    forward, backward = _operators(name)

    def fake(
        input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, *sampling: Any
    ) -> Tensor:
        check(name, "input", input, rois, pooled_height, pooled_width)
        bins, channels = pooled_height * pooled_width, input.shape[1]
        if channels % bins != 0:
            _checks.fail(name, f"expected input of a multiple of {bins} channels, one for each bin, got {channels}")
        sizes = (rois.shape[0], channels // bins, pooled_height, pooled_width)
        return new_maps(input, sizes, is_channels_last(input))

    def fake_backward(grad: Tensor, rois: Tensor, spatial_scale: float, *others: Any) -> Tensor:
        *_, batch, channels, height, width, channels_last = others
        check(op, "grad", grad, rois, 1, 1)
        _checks.check_shape(op, "grad", grad, (rois.shape[0], None, None, None))
        if grad.shape[1] * grad.shape[2] * grad.shape[3] != channels:
            shape = f"({', '.join(map(str, grad.shape))})"
            _checks.fail(op, f"expected grad of {channels} values for each region, got {shape}")
        return new_maps(grad, (batch, channels, height, width), channels_last)

    def gradient(grad: Tensor, rois: Tensor, grid: Sequence[Any], sizes: Sequence[int], channels_last: bool) -> Tensor:
        return backward(grad, rois, grid[0], *grid[3:], *sizes, channels_last)

    def grid_of_backward(grad: Tensor, grid: Sequence[Any]) -> Sequence[Any]:
        return (grid[0], *grad.shape[2:], *grid[1:-4])  # but for the input's shape

    torch.library.register_fake(f"detops::{name}", fake)
    torch.library.register_fake(f"detops::{op}", fake_backward)
    _register_autograd(name, forward, gradient, grid_of_backward)


def _operators(name: str) -> tuple[Any, Any]:
    operators = torch.ops.detops
    return getattr(operators, name).default, getattr(operators, f"{name}_backward").default


def _register_autograd(
    name: str,
    forward: Any,
    gradient: Callable[[Tensor, Tensor, Sequence[Any], Sequence[int], bool], Tensor],
    grid_of_backward: Callable[[Tensor, Sequence[Any]], Sequence[Any]],
) -> None:
    """Autograd of a linear operator and of its gradient.

    Args:
        name: Of the operator ``name(input, rois, *grid)``.
        forward: That operator.
        gradient: Of ``grad``, rois, grid, the input's sizes and whether it is channels_last.
        grid_of_backward: From ``grad`` and the backward operator's arguments behind ``rois`` but the last.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        maps, rois, *ctx.grid = inputs
        ctx.save_for_backward(rois)
        ctx.sizes = maps.shape
        ctx.channels_last = is_channels_last(maps)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        return gradient(grad, rois, ctx.grid, ctx.sizes, ctx.channels_last), *(None for _ in (rois, *ctx.grid))

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, rois, *grid, _ = inputs
        ctx.save_for_backward(rois)
        ctx.grid, ctx.arguments = grid_of_backward(grad, grid), len(inputs)

    def double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient is linear in what it is given; its transpose is the forward operator."""
        (rois,) = ctx.saved_tensors
        return forward(grad, rois, *ctx.grid), *[None] * (ctx.arguments - 1)

    torch.library.register_autograd(f"detops::{name}", backward, setup_context=setup)
    torch.library.register_autograd(f"detops::{name}_backward", double_backward, setup_context=setup_backward)
