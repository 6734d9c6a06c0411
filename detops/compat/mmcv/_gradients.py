"""Gradients of plain PyTorch functions, for backward functions that are called by hand."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pull_back(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradient in each of the inputs, from that of the function's result."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        result = function(*leaves)
        return torch.autograd.grad(result, leaves, grad.to(result.dtype))
