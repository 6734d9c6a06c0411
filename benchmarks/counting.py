"""What a call asks of a CUDA device: kernels that it launches, and how often the host waits for them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# cudaMemcpy alone, without Async, waits too.
_WAITS = ("cudaMemcpy", "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class DeviceWork:
    """Of one call: kernels launched, and waits of the host for the device."""

    kernels: int
    waits: int


def device_work(function: Callable[[], Any]) -> DeviceWork | None:
    """Counts by the profiler what one call does, warm; None where the profiler sees nothing."""
    function()
    once, thrice = (count(_events(function, calls)) for calls in (1, 3))
    if thrice == DeviceWork(0, 0):
        return None
    # What the measurement adds of its own is the same for one call and for three.
    return DeviceWork((thrice.kernels - once.kernels) // 2, (thrice.waits - once.waits) // 2)


def count(events: Iterable[tuple[bool, str]]) -> DeviceWork:
    """Counts among events, each (whether on the device, name)."""
    events = list(events)
    kernels = sum(on_device and not name.startswith(("Memcpy", "Memset")) for on_device, name in events)
    return DeviceWork(kernels, sum(not on_device and name in _WAITS for on_device, name in events))


def _events(function: Callable[[], Any], calls: int) -> list[tuple[bool, str]]:
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    return [(event.device_type == DeviceType.CUDA, event.name) for event in profiler.events() or ()]
