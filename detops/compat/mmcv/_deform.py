"""Deformable convolution, both versions. ``columns``, ``ones`` and ``im2col_step`` say how mmcv works, not what on."""

import torch
from torch import Tensor


@torch.no_grad()
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    geometry = (dH, dW, padH, padW, dilationH, dilationW)
    _check_kernel("deform_conv_forward", weight, (kH, kW))
    output.copy_(torch.ops.detops.deform_conv2d.default(input, weight, offset, None, None, *geometry))


@torch.no_grad()
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    geometry = (dH, dW, padH, padW, dilationH, dilationW)
    _check_kernel("deform_conv_backward_input", weight, (kH, kW))
    of_input, _, of_offset, _ = torch.ops.detops.deform_conv2d_backward.default(
        gradOutput, input, weight, offset, None, *geometry, True, False, True, False
    )
    gradInput.copy_(of_input)
    gradOffset.copy_(of_offset)


@torch.no_grad()
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient to ``gradWeight``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW)
    _check_kernel("deform_conv_backward_parameters", gradWeight, (kH, kW))
    weight = torch.empty_like(gradWeight)  # whose values its own gradient does not depend on
    _, of_weight, _, _ = torch.ops.detops.deform_conv2d_backward.default(
        gradOutput, input, weight, offset, None, *geometry, False, True, False, False
    )
    gradWeight.add_(of_weight, alpha=scale)


@torch.no_grad()
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    _check_kernel("modulated_deform_conv_forward", weight, (kernel_h, kernel_w))
    added = bias if with_bias else None
    output.copy_(torch.ops.detops.deform_conv2d.default(input, weight, offset, mask, added, *geometry))


@torch.no_grad()
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    _check_kernel("modulated_deform_conv_backward", weight, (kernel_h, kernel_w))
    gradients = torch.ops.detops.deform_conv2d_backward.default(
        grad_output, input, weight, offset, mask, *geometry, True, True, True, True
    )
    for given, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask), gradients, strict=True):
        given.copy_(gradient)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def _check_kernel(op: str, weight: Tensor, kernel: tuple[int, int]) -> None:
    if tuple(weight.shape[2:]) != kernel:
        raise RuntimeError(f"{op}: expected a kernel of {kernel}, as the weight's, got {tuple(weight.shape[2:])}")
