"""Features taken from where boxes say: border alignment, rotated feature alignment; and filters that turn."""

import torch
from torch import Tensor

from ._gradients import pull_back
from ._sampling import bilinear


@torch.no_grad()
def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Largest of samples along each side of boxes: "BorderDet" (https://arxiv.org/abs/2007.11056), section 3.2.

    Args:
        input: (N, 4 * C, H, W), the channels by side: top, left, bottom, right.
        boxes: (N, K, 4) as (x1, y1, x2, y2) in feature pixels.
        output: (N, C, K, 4).
        argmax_idx: Which of the samples it was, 0 to ``pool_size``, (N, C, K, 4).
        pool_size: Steps along a side, one less than samples.
    """
    steps = torch.arange(pool_size + 1, device=boxes.device).expand(*argmax_idx.shape[:1], 1, *argmax_idx.shape[2:], -1)
    best, place = _along_borders(input, boxes, steps, pool_size).max(-1)
    output.copy_(best)
    argmax_idx.copy_(place)


@torch.no_grad()
def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    def forward(maps: Tensor) -> Tensor:
        return _along_borders(maps, boxes, argmax_idx[..., None], pool_size)[..., 0]

    (of_input,) = pull_back(forward, [grad_input], grad_output)
    grad_input.add_(of_input)


@torch.no_grad()
def rotated_feature_align_forward(
    features: Tensor, best_bboxes: Tensor, output: Tensor, spatial_scale: float, points: int
) -> None:
    """Features plus samples of them: "R3Det" (https://arxiv.org/abs/1908.05612), section 3.3.

    Args:
        features: (N, C, H, W).
        best_bboxes: A box for each pixel, (N, H, W, 5), of which mmcv takes the first number as y, the second as x.
        output: Of the shape of ``features``.
        spatial_scale: Feature pixels per image pixel.
        points: 1, the centre, or 5, with the corners.
    """
    output.copy_(_with_samples(features, best_bboxes, spatial_scale, points))


@torch.no_grad()
def rotated_feature_align_backward(
    top_grad: Tensor, best_bboxes: Tensor, bottom_grad: Tensor, spatial_scale: float, points: int
) -> None:
    def forward(maps: Tensor) -> Tensor:
        return _with_samples(maps, best_bboxes, spatial_scale, points)

    (of_features,) = pull_back(forward, [bottom_grad], top_grad)
    bottom_grad.add_(of_features)


@torch.no_grad()
def active_rotated_filter_forward(input: Tensor, indices: Tensor, output: Tensor) -> None:
    """Filters (O, I, orientations, H, W) in R rotations, (O * R, I * orientations, H, W).

    Of ``indices`` (orientations, H, W, R), from 1, entry l, r is where the filter's entry l goes in rotation r: "Align
    Deep Features for Oriented Object Detection" (https://arxiv.org/abs/2008.09397), section III-C.
    """
    filters = input.flatten(2)  # (O, I, entries)
    place = _places(indices, filters)
    turned = filters.new_zeros(place.shape).scatter_(3, place, filters[:, None].expand(place.shape))
    output.copy_(turned.view_as(output))


@torch.no_grad()
def active_rotated_filter_backward(grad_out: Tensor, indices: Tensor, grad_in: Tensor) -> None:
    filters = grad_in.flatten(2)
    place = _places(indices, filters)
    grad_in.copy_(grad_out.reshape(place.shape).gather(3, place).sum(1).view_as(grad_in))


def _along_borders(input: Tensor, boxes: Tensor, steps: Tensor, pool_size: int) -> Tensor:
    """Samples at these steps along each side, (N, C, K, 4, S); ``steps`` may have a single channel."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    start_x, start_y = torch.stack([x1, x1, x2, x2], -1), torch.stack([y1, y1, y2, y2], -1)  # (N, K, 4)
    dx = torch.stack([x2 - x1, torch.zeros_like(x1), x1 - x2, torch.zeros_like(x1)], -1) / pool_size
    dy = torch.stack([torch.zeros_like(y1), y2 - y1, torch.zeros_like(y1), y1 - y2], -1) / pool_size
    x, y = (
        (start[:, None, ..., None] + steps * step[:, None, ..., None]) for start, step in ((start_x, dx), (start_y, dy))
    )

    images = torch.arange(len(input), device=input.device)
    sides = [bilinear(maps, images, y[:, :, :, i], x[:, :, :, i]) for i, maps in enumerate(input.chunk(4, dim=1))]
    return torch.stack(sides, dim=3)


def _with_samples(features: Tensor, boxes: Tensor, scale: float, points: int) -> Tensor:
    centre_y, centre_x = boxes[..., 0] * scale, boxes[..., 1] * scale  # (N, H, W)
    along, across = boxes[..., 2] * scale / 2, boxes[..., 3] * scale / 2
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    images = torch.arange(len(features), device=features.device)
    total = features
    for u, v in ((0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1))[:points]:
        y = centre_y + u * sin * along + v * cos * across
        x = centre_x + u * cos * along - v * sin * across
        total = total + bilinear(features, images, y[:, None], x[:, None])
    return total


def _places(indices: Tensor, filters: Tensor) -> Tensor:
    """Where each entry goes, (O, R, I, entries)."""
    O, I, entries = filters.shape  # noqa: E741
    place = indices.reshape(entries, -1).long().T - 1  # (R, entries)
    return place[None, :, None].expand(O, -1, I, -1)
