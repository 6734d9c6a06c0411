"""The boxes around masks."""

import torch
from torch import Tensor

from . import _checks

_MASKS_TO_BOXES = torch.ops.detops.masks_to_boxes.default


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The smallest box around what is not zero in each mask.

    Args:
        masks: (N, H, W), bool or any real dtype; NaN counts as not zero.

    Returns:
        (N, 4) float32: first column, first row, last column and last row of the mask, so that a mask of one pixel has a
        box without area. Zeros for an empty mask.

    Raises:
        RuntimeError: If the shape or dtype is not as above.
    """
    return _MASKS_TO_BOXES(masks)


@torch.library.register_fake("detops::masks_to_boxes")
def _(masks: Tensor) -> Tensor:
    if masks.dtype != torch.bool:
        _checks.check_real("masks_to_boxes", "masks", masks)
    _checks.check_shape("masks_to_boxes", "masks", masks, (None, None, None))
    return masks.new_empty((masks.shape[0], 4), dtype=torch.float32)
