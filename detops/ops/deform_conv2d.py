"""Convolution with a moved kernel."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from . import _checks


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel points are moved, each at each output pixel, by an offset of its own.

    Deformable convolution, "Deformable Convolutional Networks" (https://arxiv.org/abs/1703.06211), section 2.1; with a
    mask its second version, "Deformable ConvNets v2" (https://arxiv.org/abs/1811.11168), section 3.2, where each sample
    is multiplied by a number too. Samples are bilinear; the map lies in zeros, so that a sample less than a pixel
    outside counts in part. One whose offset is NaN or infinite counts as zero.

    The channels may be in groups, ``groups`` of the weight as in :func:`torch.nn.functional.conv2d` and ``G`` of the
    offset, each with kernel points of its own; the shapes tell how many.

    Args:
        input: Feature maps, (N, C, H, W), any floating dtype, any strides.
        offset: How far kernel points move, in pixels of ``input``: (N, 2 * G * KH * KW, OH, OW), by group, then kernel
            point, first down, then right. Its dtype may differ from that of ``input``.
        weight: (O, C / groups, KH, KW), dtype of ``input``.
        bias: (O,), dtype of ``input``; None: zeros.
        stride: Pixels between neighbouring outputs' kernels, (down, right), or one number for both.
        padding: Zeros around the map that kernels may start in, likewise.
        dilation: Pixels between neighbouring kernel points, likewise.
        mask: Multiplies each sample, (N, G * KH * KW, OH, OW), any floating dtype; None: ones.

    Returns:
        (N, O, OH, OW), dtype of ``input``, channels_last if ``input`` is. Under ``torch.autocast`` too, where it is
        computed in float32. Half precision is summed in float32. Differentiable, once, in all five tensors;
        results and gradients are the same from run to run, for a given number of threads.

    Raises:
        RuntimeError: If a shape, dtype or device is not as above, or a number out of range.
    """
    geometry = (*_pair("stride", stride), *_pair("padding", padding), *_pair("dilation", dilation))
    if not input.is_meta and torch.is_autocast_enabled(input.device.type):
        tensors = (_single(input), _single(weight), _single(offset), _single(mask), _single(bias))
        return torch.ops.detops.deform_conv2d.default(*tensors, *geometry).to(input.dtype)
    return torch.ops.detops.deform_conv2d.default(input, weight, offset, mask, bias, *geometry)


class DeformConv2d(nn.Module):
    """:func:`deform_conv2d` as a module, whose offset and mask are computed elsewhere.

    Args:
        in_channels: C of the input.
        out_channels: O of the output.
        kernel_size: Height and width of the kernel, or one number for both.
        stride: As of :func:`deform_conv2d`, like those that follow.
        padding: Zeros around the map.
        dilation: Pixels between kernel points.
        groups: Of channels that the weight connects.
        bias: Whether there is one.

    Raises:
        ValueError: If ``groups`` does not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups != 0:
                raise ValueError(f"DeformConv2d: expected {name} divisible by groups, {groups}, got {channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair("kernel_size", kernel_size)
        self.stride = _pair("stride", stride)
        self.padding = _pair("padding", padding)
        self.dilation = _pair("dilation", dilation)
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as :class:`torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def __repr__(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != (0, 0):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return f"{type(self).__name__}({', '.join(parts)})"


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int | torch.SymInt):
        return value, value
    if len(value) != 2:
        _checks.fail("deform_conv2d", f"expected {name} of one or two numbers, got {tuple(value)}")
    return value[0], value[1]


def _single(tensor: Tensor | None) -> Tensor | None:
    """What autocast makes of a tensor where float32 is wanted."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.float()


def _check(
    op: str,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Raise what the host function raises; the height and width of the output."""
    _checks.check_floating(op, "input", input)
    _checks.check_shape(op, "input", input, (None, None, None, None))
    _checks.check_same_dtype(op, "input", input, "weight", weight)
    _checks.check_shape(op, "weight", weight, (None, None, None, None))
    _checks.check_same_device(op, "input", input, "weight", weight)
    _check_at_least(op, "stride", stride, 1)
    _check_at_least(op, "padding", padding, 0)
    _check_at_least(op, "dilation", dilation, 1)
    images, channels, *size = input.shape
    out_channels, connected, *kernel = weight.shape
    _check_at_least(op, "weight with a kernel", kernel, 1)
    if connected == 0 or channels == 0 or channels % connected != 0:
        _checks.fail(op, f"expected weight of shape (*, {channels} / groups, *, *), got {_shape(weight)}")
    groups = channels // connected
    if out_channels % groups != 0:
        _checks.fail(op, f"expected weight with output channels that {groups} groups divide, got {_shape(weight)}")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padded = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    if padded[0] < reach[0] or padded[1] < reach[1]:
        sizes = f"({reach[0]}, {reach[1]}), got ({padded[0]}, {padded[1]})"
        _checks.fail(op, f"expected input with padding no smaller than the kernel, {sizes}")
    height, width = ((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    points = kernel[0] * kernel[1]
    _checks.check_floating(op, "offset", offset)
    _checks.check_shape(op, "offset", offset, (None, None, None, None))
    offset_groups = max(offset.shape[1] // (2 * points), 1)
    _checks.check_shape(op, "offset", offset, (images, 2 * offset_groups * points, height, width))
    if channels % offset_groups != 0:
        groups_of_offset = f"the {channels} channels of input, got {offset_groups}"
        _checks.fail(op, f"expected offset with groups that divide {groups_of_offset}")
    _checks.check_same_device(op, "input", input, "offset", offset)
    if mask is not None:
        _checks.check_floating(op, "mask", mask)
        _checks.check_shape(op, "mask", mask, (images, offset_groups * points, height, width))
        _checks.check_same_device(op, "input", input, "mask", mask)
    if bias is not None:
        _checks.check_same_dtype(op, "input", input, "bias", bias)
        _checks.check_shape(op, "bias", bias, (out_channels,))
        _checks.check_same_device(op, "input", input, "bias", bias)
    return height, width


def _check_at_least(op: str, name: str, pair: Sequence[int], least: int) -> None:
    if pair[0] < least or pair[1] < least:
        _checks.fail(op, f"expected {name} of at least {least}, got ({pair[0]}, {pair[1]})")


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _new_maps(like: Tensor, sizes: Sequence[int]) -> Tensor:
    """Uninitialised maps, channels_last if those given are."""
    if like.stride(1) != 1 or like.stride(3) == 1:
        return like.new_empty(sizes)
    n, c, h, w = sizes
    return like.new_empty_strided((n, c, h, w), (h * w * c, 1, w * c, c))


@torch.library.register_fake("detops::deform_conv2d")
def _(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, *geometry: int
) -> Tensor:
    stride, padding, dilation = geometry[:2], geometry[2:4], geometry[4:]
    size = _check("deform_conv2d", input, weight, offset, mask, bias, stride, padding, dilation)
    return _new_maps(input, (input.shape[0], weight.shape[0], *size))


@torch.library.register_fake("detops::deform_conv2d_backward")
def _(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, *geometry_and_wanted: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = "deform_conv2d_backward"
    geometry, (wants_input, wants_weight, wants_offset, wants_mask) = geometry_and_wanted[:6], geometry_and_wanted[6:]
    size = _check(op, input, weight, offset, mask, None, geometry[:2], geometry[2:4], geometry[4:])
    _checks.check_same_dtype(op, "input", input, "grad", grad)
    _checks.check_shape(op, "grad", grad, (input.shape[0], weight.shape[0], *size))
    _checks.check_same_device(op, "input", input, "grad", grad)
    of_mask = (
        mask.new_empty(mask.shape)
        if mask is not None and wants_mask
        else (input if mask is None else mask).new_empty(0)
    )
    return (
        _new_maps(input, input.shape) if wants_input else input.new_empty(0),
        weight.new_empty(weight.shape) if wants_weight else weight.new_empty(0),
        offset.new_empty(offset.shape) if wants_offset else offset.new_empty(0),
        of_mask,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, weight, offset, mask, _, *ctx.geometry = inputs
    ctx.save_for_backward(maps, weight, offset, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:4]
    gradients: list[Tensor | None] = [None] * 4
    if any(wanted):
        results = torch.ops.detops.deform_conv2d_backward.default(grad, *ctx.saved_tensors, *ctx.geometry, *wanted)
        gradients = [result if wants else None for result, wants in zip(results, wanted, strict=True)]
    of_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None
    return (*gradients, of_bias, *[None] * 6)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    _checks.fail("deform_conv2d_backward", "expected to be differentiated once, got a second derivative")


torch.library.register_autograd("detops::deform_conv2d", _backward, setup_context=_setup_context)
torch.library.register_autograd("detops::deform_conv2d_backward", _no_second_derivative)
