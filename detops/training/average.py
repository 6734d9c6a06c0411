"""The moving average of a model's weights, which often predicts better than the last of them."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class ExponentialAverage(nn.Module):
    """After each step a little of the model: average <- d * average + (1 - d) * model.

    d grows as (1 + n) / (10 + n) over the first steps n, so that the random weights of the start are forgotten.

    Args:
        model: To be averaged; its buffers, such as statistics of batch normalisation, are too.
        decay: What d grows to.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        steps = int(self.steps)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def train(self, mode: bool = True) -> "ExponentialAverage":
        """Never: an average predicts."""
        return super().train(False)
