"""Convolutions, attention, losses and resampling of mmcv._ext, called as mmcv/ops calls them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from samples import gradients, sample
from torch import Tensor
from torch.testing import assert_close

from detops.compat.mmcv import _ext as ext


def convolution(with_mask: bool) -> dict[str, Tensor]:
    """Two groups of channels, two of offsets; kernel 3 × 2, stride (2, 1), padding (1, 2), dilation (1, 2)."""
    tensors = {
        "input": torch.randn(2, 4, 7, 8, dtype=torch.float64),
        "offset": torch.randn(2, 24, 4, 10, dtype=torch.float64),
        "weight": torch.randn(6, 2, 3, 2, dtype=torch.float64),
    }
    if with_mask:
        tensors |= {"mask": torch.rand(2, 12, 4, 10, dtype=torch.float64), "bias": torch.randn(6, dtype=torch.float64)}
    return tensors


def reference_convolution(
    input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, (2, 1), (1, 2), (1, 2), mask)


def test_deform_conv(place: torch.device) -> None:
    cpu = convolution(with_mask=False)
    maps, offset, weight = (tensor.to(place) for tensor in cpu.values())
    shape = {"kW": 2, "kH": 3, "dW": 1, "dH": 2, "padW": 2, "padH": 1, "dilationW": 2, "dilationH": 1}
    shape |= {"group": 2, "deformable_group": 2, "im2col_step": 2}
    buffer, output = maps.new_empty(0), maps.new_empty(2, 6, 4, 10)
    ext.deform_conv_forward(maps, weight, offset, output, buffer, buffer, **shape)
    assert_close(output.cpu(), reference_convolution(**cpu))
    grad = torch.randn(2, 6, 4, 10, dtype=torch.float64)
    of_input, of_offset, of_weight = (torch.zeros_like(tensor) for tensor in (maps, offset, weight))
    ext.deform_conv_backward_input(maps, offset, grad.to(place), of_input, of_offset, weight, buffer, **shape)
    ext.deform_conv_backward_parameters(maps, offset, grad.to(place), of_weight, buffer, buffer, scale=0.5, **shape)
    expected = gradients(reference_convolution, list(cpu.values()), grad)
    assert_close((of_input.cpu(), of_offset.cpu(), 2 * of_weight.cpu()), expected)


@pytest.mark.parametrize("with_bias", [False, True])
def test_modulated_deform_conv(place: torch.device, with_bias: bool) -> None:
    cpu = convolution(with_mask=True)
    maps, offset, weight, mask, bias = (tensor.to(place) for tensor in cpu.values())
    shape = {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "pad_h": 1, "pad_w": 2}
    shape |= {"dilation_h": 1, "dilation_w": 2, "group": 2, "deformable_group": 2, "with_bias": with_bias}
    if not with_bias:
        cpu.pop("bias")
        bias = maps.new_empty(0)
    buffer, output = maps.new_empty(0), maps.new_empty(2, 6, 4, 10)
    ext.modulated_deform_conv_forward(maps, weight, bias, buffer, offset, mask, output, buffer, **shape)
    assert_close(output.cpu(), reference_convolution(**cpu))
    grad = torch.randn(2, 6, 4, 10, dtype=torch.float64)
    given = [torch.zeros_like(tensor) for tensor in (maps, weight, bias, offset, mask)]
    ext.modulated_deform_conv_backward(
        maps, weight, bias, buffer, offset, mask, buffer, *given, grad.to(place), **shape
    )
    of_input, of_weight, of_bias, of_offset, of_mask = (tensor.cpu() for tensor in given)
    found = (of_input, of_offset, of_weight, of_mask, of_bias)[: len(cpu)]
    assert_close(found, gradients(reference_convolution, list(cpu.values()), grad))


def test_ms_deform_attn(place: torch.device) -> None:
    sizes = torch.tensor([[4, 5], [2, 3]])
    value = torch.randn(2, 26, 2, 3, dtype=torch.float64)
    places = torch.rand(2, 4, 2, 2, 3, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, 2, 3, dtype=torch.float64)

    def reference(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        cells = []
        for b, q, m, d in torch.cartesian_prod(*map(torch.arange, (2, 4, 2, 3))).tolist():
            total = value.new_zeros(())
            for level, (start, (h, w)) in enumerate(zip((0, 20), sizes.tolist(), strict=True)):
                plane = F.pad(value[b, start : start + h * w, m, d].view(h, w), [2] * 4)  # zeros around
                for p in range(3):
                    x, y = places[b, q, m, level, p]
                    total = total + weights[b, q, m, level, p] * sample(plane, y * h + 1.5, x * w + 1.5)
            cells.append(total)
        return torch.stack(cells).view(2, 4, 6)

    starts = torch.tensor([0, 20])
    arguments = [tensor.to(place) for tensor in (value, sizes, starts, places, weights)]
    output = ext.ms_deform_attn_forward(*arguments, im2col_step=64)
    assert_close(output.cpu(), reference(value, places, weights))
    grad = torch.randn(2, 4, 6, dtype=torch.float64)
    given = [torch.zeros_like(arguments[i]) for i in (0, 3, 4)]
    ext.ms_deform_attn_backward(*arguments, grad.to(place), *given, im2col_step=64)
    assert_close(tuple(g.cpu() for g in given), gradients(reference, [value, places, weights], grad))


LABELS = torch.tensor([0, 2, 3, -1, 1, 3])  # 3: background


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(place: torch.device, weighted: bool) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64) * 3
    weight = torch.tensor([0.5, 2.0, 3.0] if weighted else [], dtype=torch.float64)

    def reference(logits: Tensor) -> Tensor:
        target = (LABELS[:, None] == torch.arange(3)).double()
        p = logits.sigmoid()
        losses = -0.3 * target * (1 - p) ** 1.5 * p.log() - 0.7 * (1 - target) * p**1.5 * (1 - p).log()
        return losses * torch.tensor([0.5, 3, 1, 1, 2, 1])[:, None] if weighted else losses

    output, given = (torch.zeros_like(logits).to(place) for _ in range(2))
    arguments = [tensor.to(place) for tensor in (logits, LABELS, weight)]
    ext.sigmoid_focal_loss_forward(*arguments, output, gamma=1.5, alpha=0.3)
    assert_close(output.cpu(), reference(logits))
    ext.sigmoid_focal_loss_backward(*arguments, given, gamma=1.5, alpha=0.3)
    assert_close(given.cpu(), gradients(reference, [logits], torch.ones(6, 3, dtype=torch.float64))[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_focal_loss(place: torch.device, weighted: bool) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64) * 3
    weight = torch.tensor([0.5, 2.0, 3.0, 1.5] if weighted else [], dtype=torch.float64)

    def reference(logits: Tensor) -> Tensor:
        p = logits.softmax(1)[torch.arange(6), LABELS]
        losses = torch.where(LABELS >= 0, -0.3 * (1 - p) ** 1.5 * p.log(), 0.0)
        return losses * weight[LABELS] if weighted else losses

    softmax, buffer = logits.softmax(1).to(place), logits.new_zeros(6).to(place)
    arguments = (softmax, LABELS.to(place), weight.to(place))
    output, given = logits.new_zeros(6).to(place), torch.zeros_like(logits).to(place)
    ext.softmax_focal_loss_forward(*arguments, output, gamma=1.5, alpha=0.3)
    assert_close(output.cpu(), reference(logits))
    ext.softmax_focal_loss_backward(*arguments, buffer, given, gamma=1.5, alpha=0.3)
    assert_close(given.cpu(), gradients(reference, [logits], torch.ones(6, dtype=torch.float64))[0])


@pytest.mark.parametrize("naive", [False, True])
def test_carafe(place: torch.device, naive: bool) -> None:
    features, masks = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.rand(2, 18, 6, 10, dtype=torch.float64)

    def reference(features: Tensor, masks: Tensor) -> Tensor:
        windows = F.unfold(features, 3, padding=1).view(2, 2, 2, 9, 3, 5)  # by group, channel, place
        windows = windows.repeat_interleave(2, 4).repeat_interleave(2, 5)
        return (windows * masks.view(2, 2, 1, 9, 6, 10)).sum(3).flatten(1, 2)

    numbers = {"kernel_size": 3, "group_size": 2, "scale_factor": 2}
    expected, grad = reference(features, masks), torch.randn(2, 4, 6, 10, dtype=torch.float64)
    given = [torch.zeros_like(tensor).to(place) for tensor in (features, masks)]
    output, buffers = (
        torch.zeros_like(expected).to(place),
        [torch.zeros_like(t).to(place) for t in (features, grad, masks)],
    )
    inputs = (features.to(place), masks.to(place))
    if naive:
        ext.carafe_naive_forward(*inputs, output, **numbers)
        ext.carafe_naive_backward(grad.to(place), *inputs, *given, **numbers)
    else:
        ext.carafe_forward(*inputs, *buffers, output, **numbers)
        more = [torch.zeros_like(tensor) for tensor in (output, output, *inputs)]
        ext.carafe_backward(grad.to(place), buffers[0], inputs[1], *more, *given, **numbers)
    assert_close(output.cpu(), expected)
    assert_close(tuple(g.cpu() for g in given), gradients(reference, [features, masks], grad))


def test_masked_convolution(place: torch.device) -> None:
    features, weight = torch.randn(1, 3, 6, 7, device=place), torch.randn(4, 3, 3, 2, device=place)
    h, w = torch.tensor([0, 2, 5], device=place), torch.tensor([6, 3, 0], device=place)
    columns = features.new_zeros(18, 3)
    ext.masked_im2col_forward(features, h, w, columns, kernel_h=3, kernel_w=2, pad_h=1, pad_w=1)
    output = features.new_zeros(1, 4, 6, 8)
    ext.masked_col2im_forward(weight.view(4, -1) @ columns, h, w, output, height=6, width=8, channels=4)
    whole = F.conv2d(features, weight, padding=1)
    assert_close(output[0, :, h, w], whole[0, :, h, w])
    assert output.count_nonzero() == 12
