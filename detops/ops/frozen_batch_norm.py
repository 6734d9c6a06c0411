"""Batch normalisation whose statistics and parameters no longer change."""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics, weight and bias: :class:`torchvision.ops.FrozenBatchNorm2d`.

    All four are buffers, so that no optimiser finds them and training leaves them as they are. State dicts of
    :class:`torch.nn.BatchNorm2d` load: its ``num_batches_tracked`` is passed over.

    Args:
        num_features: C of an input (N, C, H, W).
        eps: Added to the variances.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised; of the wider dtype of input and buffers."""
        if x.dim() == 4 and x.dtype == self.weight.dtype:
            eps = self.eps or sys.float_info.min  # 0 once it is float32; some versions of torch take no other
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=eps)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
