"""Optimisers with their parameter groups, and the learning rate of each step."""

import math
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from .options import TrainingOptions

_FIRST_FACTOR = 1e-3  # of the learning rate, where the warm-up begins
_DROPS = (2 / 3, 8 / 9)  # shares of the steps after which "multistep" divides by ten
_RISING, _START, _END = 0.3, 1 / 25, 1e-4  # "onecycle": share of the steps, first and last factor


def build(model: nn.Module, options: TrainingOptions) -> Optimizer:
    """The optimiser of the parameters that require gradients."""
    groups = parameter_groups(model, options)
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.learning_rate)
    return SGD(groups, lr=options.learning_rate, momentum=options.momentum)


def parameter_groups(model: nn.Module, options: TrainingOptions) -> list[dict[str, object]]:
    """Groups of what is trained: the backbone's learning rate may differ, biases and normalisation do not decay."""
    groups = []
    for of_backbone, factor in ((True, options.backbone_lr_factor), (False, 1.0)):
        for decays, weight_decay in ((True, options.weight_decay), (False, 0.0)):
            parameters = [
                parameter
                for name, parameter in _trained(model)
                if name.startswith("backbone.") == of_backbone and (parameter.dim() > 1) == decays
            ]
            if parameters:
                rate = options.learning_rate * factor
                groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
    return groups


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def schedule(options: TrainingOptions, total_steps: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by, of the number of steps done."""
    shape = {"multistep": _multistep, "cosine": _cosine, "onecycle": _onecycle, "constant": _constant}[options.schedule]
    warmup = 0 if options.schedule == "onecycle" else options.warmup_of(total_steps)

    def factor(step: int) -> float:
        warming = _FIRST_FACTOR + (1 - _FIRST_FACTOR) * step / warmup if step < warmup else 1.0
        return warming * shape(min(1.0, step / max(1, total_steps)))

    return factor


def _constant(progress: float) -> float:
    return 1.0


def _multistep(progress: float) -> float:
    return 0.1 ** sum(progress >= drop for drop in _DROPS)


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _onecycle(progress: float) -> float:
    """Up and down by half a cosine each (https://arxiv.org/abs/1708.07120)."""
    if progress < _RISING:
        return 1 + (_START - 1) * _cosine(progress / _RISING)
    return _END + (1 - _END) * _cosine((progress - _RISING) / (1 - _RISING))
