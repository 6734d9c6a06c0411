"""Functions of mmcv._ext made of torchvision and plain PyTorch, with nothing of detops: what mmdet is compared on."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    edges = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(edges, scores, torch.tensor(iou_threshold, dtype=torch.float32).item())


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    edges, lowered, keep = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1), scores.clone(), []
    ious = torchvision.ops.box_iou(edges, edges)
    left = torch.ones_like(scores, dtype=torch.bool)
    while left.any():
        best = int(torch.where(left, lowered, -math.inf).argmax())
        keep.append(best)
        left[best] = False
        near = ious[best] >= iou_threshold
        weights = (
            torch.where(near, 0.0, 1.0),
            torch.where(near, 1 - ious[best], 1.0),
            (-(ious[best] ** 2) / sigma).exp(),
        )
        lowered = torch.where(left, lowered * weights[method], lowered)
        left &= lowered >= min_score
    dets[: len(keep)] = torch.cat([boxes, lowered[:, None]], dim=1)[keep]
    return torch.tensor(keep, dtype=torch.int64)


def write_gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, into: list[Tensor]) -> None:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        results = torch.autograd.grad(function(*leaves), leaves, grad)
    for given, result in zip(into, results, strict=True):
        given.copy_(result)


def _roi_align(maps: Tensor, rois: Tensor, **numbers: Any) -> Tensor:
    assert numbers["pool_mode"] == 1
    size = (numbers["aligned_height"], numbers["aligned_width"])
    return torchvision.ops.roi_align(
        maps, rois, size, numbers["spatial_scale"], numbers["sampling_ratio"] or -1, numbers["aligned"]
    )


def roi_align_forward(maps: Tensor, rois: Tensor, output: Tensor, y: Tensor, x: Tensor, **numbers: Any) -> None:
    output.copy_(_roi_align(maps, rois, **numbers))


def roi_align_backward(grad: Tensor, rois: Tensor, y: Tensor, x: Tensor, grad_input: Tensor, **numbers: Any) -> None:
    write_gradients(lambda maps: _roi_align(maps, rois, **numbers), [grad_input], grad, [grad_input])


def _deform_conv(maps: Tensor, offset: Tensor, weight: Tensor, **numbers: int) -> Tensor:
    stride, padding = (numbers["dH"], numbers["dW"]), (numbers["padH"], numbers["padW"])
    dilation = (numbers["dilationH"], numbers["dilationW"])
    return torchvision.ops.deform_conv2d(maps, offset, weight, None, stride, padding, dilation)


def deform_conv_forward(
    maps: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **numbers: int
) -> None:
    output.copy_(_deform_conv(maps, offset, weight, **numbers))


def deform_conv_backward_input(
    maps: Tensor,
    offset: Tensor,
    grad: Tensor,
    of_maps: Tensor,
    of_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **numbers: int,
) -> None:
    def forward(maps: Tensor, offset: Tensor) -> Tensor:
        return _deform_conv(maps, offset, weight, **numbers)

    write_gradients(forward, [maps, offset], grad, [of_maps, of_offset])


def deform_conv_backward_parameters(
    maps: Tensor, offset: Tensor, grad: Tensor, of_weight: Tensor, columns: Tensor, ones: Tensor, **numbers: int
) -> None:
    assert numbers["scale"] == 1
    write_gradients(lambda weight: _deform_conv(maps, offset, weight, **numbers), [of_weight], grad, [of_weight])


def _modulated(maps: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, **numbers: int) -> Tensor:
    stride, padding = (numbers["stride_h"], numbers["stride_w"]), (numbers["pad_h"], numbers["pad_w"])
    dilation = (numbers["dilation_h"], numbers["dilation_w"])
    added = bias if numbers["with_bias"] else None
    result = torchvision.ops.deform_conv2d(maps, offset, weight, added, stride, padding, dilation, mask)
    return result + 0 * bias.sum()


def modulated_deform_conv_forward(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **numbers: int,
) -> None:
    output.copy_(_modulated(maps, weight, offset, mask, bias, **numbers))


def modulated_deform_conv_backward(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    of_maps: Tensor,
    of_weight: Tensor,
    of_bias: Tensor,
    of_offset: Tensor,
    of_mask: Tensor,
    grad: Tensor,
    **numbers: int,
) -> None:
    def forward(*tensors: Tensor) -> Tensor:
        return _modulated(*tensors, **numbers)

    write_gradients(
        forward, [maps, weight, offset, mask, bias], grad, [of_maps, of_weight, of_offset, of_mask, of_bias]
    )


def _carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    N, C, H, W = features.shape
    windows = F.unfold(features, kernel_size, padding=kernel_size // 2).view(N, C * kernel_size**2, H, W)
    windows = F.interpolate(windows, scale_factor=scale_factor).view(
        N, group_size, -1, kernel_size**2, H * scale_factor, W * scale_factor
    )
    return (windows * masks.view(N, group_size, 1, kernel_size**2, *masks.shape[2:])).sum(3).flatten(1, 2)


def carafe_forward(
    features: Tensor, masks: Tensor, kept: Tensor, routput: Tensor, rmasks: Tensor, output: Tensor, **numbers: int
) -> None:
    kept.copy_(features)
    output.copy_(_carafe(features, masks, **numbers))


def carafe_backward(grad: Tensor, kept: Tensor, masks: Tensor, *tensors: Tensor, **numbers: int) -> None:
    def forward(features: Tensor, masks: Tensor) -> Tensor:
        return _carafe(features, masks, **numbers)

    write_gradients(forward, [kept, masks], grad, list(tensors[-2:]))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        carafe_forward,
        carafe_backward,
    )
}
