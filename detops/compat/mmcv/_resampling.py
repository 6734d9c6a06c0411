"""CARAFE (https://arxiv.org/abs/1905.02188), and what masked convolution is made of."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Each pixel of the larger map is a weighted mean of the features around it.

    Args:
        features: (N, C, H, W).
        masks: The weights, (N, G * kernel_size**2, S * H, S * W).
        output: (N, C, S * H, S * W).
        kernel_size: Pixels along each axis that a mean is of.
        group_size: G, groups of channels that share weights.
        scale_factor: S.
    """
    total = torch.zeros_like(output)
    grouped = total.unflatten(1, (group_size, -1))
    for window, weights in _neighbours(features, masks, kernel_size, group_size, scale_factor):
        grouped += _enlarge(window, scale_factor).unflatten(1, (group_size, -1)) * weights
    output.copy_(total)


@torch.no_grad()
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    grad = top_grad.unflatten(1, (group_size, -1))
    of_features, of_masks = torch.zeros_like(features), torch.zeros_like(masks)
    both = zip(
        _neighbours(features, masks, kernel_size, group_size, scale_factor),
        _neighbours(of_features, of_masks, kernel_size, group_size, scale_factor),
        strict=True,
    )
    reach = kernel_size // 2
    padded = F.pad(of_features, [reach] * 4)
    for place, ((window, weights), (_, of_weights)) in enumerate(both):
        of_weights.copy_((_enlarge(window, scale_factor).unflatten(1, (group_size, -1)) * grad).sum(2, keepdim=True))
        dy, dx = divmod(place, kernel_size)
        height, width = features.shape[2:]
        padded[:, :, dy : dy + height, dx : dx + width] += _reduce((weights * grad).flatten(1, 2), scale_factor)
    bottom_grad.add_(padded[:, :, reach : reach + features.shape[2], reach : reach + features.shape[3]])
    mask_grad.add_(of_masks)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """:func:`carafe_naive_forward`; ``rfeatures`` keeps the features for :func:`carafe_backward`."""
    rfeatures.copy_(features.detach())
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


@torch.no_grad()
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """The window of one image (1, C, H, W) at each of P places as a column of ``col``, (C * kernel_h * kernel_w, P)."""
    padded = F.pad(im[0], [pad_w, pad_w, pad_h, pad_h])
    down, across = (torch.arange(size, device=im.device) for size in (kernel_h, kernel_w))
    windows = padded[:, down[:, None, None] + mask_h_idx, across[:, None] + mask_w_idx]
    col.copy_(windows.reshape(col.shape))


@torch.no_grad()
def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Columns (C, P) put at their places in one image (1, C, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def _neighbours(
    features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Place by place of the window: the features there, (N, C, H, W), and their weights, (N, G, 1, S * H, S * W)."""
    height, width = features.shape[2:]
    padded = F.pad(features, [kernel_size // 2] * 4)
    weights = masks.unflatten(1, (groups, 1, kernel_size, kernel_size))
    for dy in range(kernel_size):
        for dx in range(kernel_size):
            yield padded[:, :, dy : dy + height, dx : dx + width], weights[:, :, :, dy, dx]


def _enlarge(maps: Tensor, scale: int) -> Tensor:
    return maps.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _reduce(maps: Tensor, scale: int) -> Tensor:
    """What :func:`_enlarge` passes back."""
    return maps.unflatten(3, (-1, scale)).sum(4).unflatten(2, (-1, scale)).sum(3)
