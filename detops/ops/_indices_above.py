"""The search for the few values, of millions, that are large."""

import torch
from torch import Tensor

from . import _checks

_INDICES_ABOVE = torch.ops.detops.indices_above.default


def indices_above(values: Tensor, least: float) -> Tensor:
    """Indices, (K,) int64 ascending, of the values (N,), floating and on the CPU, that are above ``least``."""
    return _INDICES_ABOVE(values, least)


@torch.library.register_fake("detops::indices_above")
def _(values: Tensor, least: float) -> Tensor:
    _checks.check_floating("indices_above", "values", values)
    _checks.check_shape("indices_above", "values", values, [None])
    return values.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
