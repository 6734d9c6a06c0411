"""Multi-scale deformable attention of "Deformable DETR" (https://arxiv.org/abs/2010.04159), section 4.1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._gradients import pull_back


@torch.no_grad()
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Means of values sampled around each query.

    Args:
        value: The maps' pixels, level after level, (B, S, M, D) for M heads.
        value_spatial_shapes: (L, 2) height and width of each level.
        value_level_start_index: (L,) where a level starts; it follows from the sizes, and is not looked at.
        sampling_locations: (B, Q, M, L, P, 2) as (x, y), 0…1 across a map.
        attention_weights: (B, Q, M, L, P).
        im2col_step: Not needed.

    Returns:
        (B, Q, M * D).
    """
    return _attend(value, sampling_locations, attention_weights, value_spatial_shapes.tolist())


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    sizes = value_spatial_shapes.tolist()

    def forward(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return _attend(value, locations, weights, sizes)

    gradients = pull_back(forward, [value, sampling_locations, attention_weights], grad_output)
    for given, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        given.copy_(gradient)


def _attend(value: Tensor, locations: Tensor, weights: Tensor, sizes: list[list[int]]) -> Tensor:
    B, _, M, D = value.shape
    Q = locations.shape[1]
    result = value.new_zeros(B * M, D, Q)
    for level, pixels in enumerate(value.split([height * width for height, width in sizes], dim=1)):
        maps = pixels.permute(0, 2, 3, 1).reshape(B * M, D, *sizes[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # (B * M, Q, P, 2)
        samples = F.grid_sample(maps, grid, align_corners=False)  # (B * M, D, Q, P)
        of_level = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B * M, Q, P)
        result = result + (samples * of_level[:, None]).sum(-1)
    return result.view(B, M * D, Q).transpose(1, 2).to(value.dtype).contiguous()
