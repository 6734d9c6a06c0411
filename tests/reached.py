"""What the tests of detops.compat share: boxes, and which operators and kernels a call goes through."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class RecordOperators(TorchDispatchMode):
    """Names of the operators called, ``"detops::nms"``, of detops and torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("detops", "torchvision"):
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def boxes(number: int, seed: int = 0, side: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(number, 2, generator=generator, dtype=torch.float64) * side
    sides = 1 + torch.rand(number, 2, generator=generator, dtype=torch.float64) * side / 2
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def scores(number: int, seed: int = 1) -> Tensor:
    return torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operators_of(function: Callable[[], Any]) -> set[str]:
    with RecordOperators() as record:
        function()
    return record.names


def kernels_of(function: Callable[[], Any]) -> set[str]:
    """Those that operators, compiled code and TorchScript call, too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        function()
    return {event.name for event in profile.events() if event.name.startswith("detops::")}
