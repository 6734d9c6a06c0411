"""Timing of several functions side by side, and the copy speed that their memory traffic is held against."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Timer = Callable[[Callable[[], Any], int], float]  # (function, repeats) -> seconds for all of them

SAMPLE_SECONDS = 2e-3  # far above the clock's resolution and the cost of the loop
MAX_REPEATS = 10_000
MIN_ROUNDS, MAX_ROUNDS = 5, 200
LONG_SECONDS, LONG_ROUNDS = 1.0, 3  # calls that take so long, as of whole detectors, have fewer rounds
COLD_BYTES = 1 << 20  # a CUDA case that moves less is a matter of launches, whatever is in the cache


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the rounds, each the mean of ``repeats`` calls."""

    median: float
    low: float
    high: float
    rounds: int
    repeats: int

    @property
    def spread(self) -> float:
        """Half the interquartile range, relative to the median."""
        return (self.high - self.low) / 2 / self.median


def wall_timer(function: Callable[[], Any], repeats: int) -> float:
    """Times calls by the wall clock; the result is freed before the clock stops, so allocation counts in full."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return time.perf_counter() - start


def cuda_timer(function: Callable[[], Any], repeats: int) -> float:
    """Times calls on the current CUDA stream by events: from the first kernel's start to the last one's end."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


class ColdCudaTimer:
    """Times calls one by one by CUDA events, each after the device's L2 cache was overwritten.

    A detector's tensors come from memory, not from the cache that the call before left them in. While the cache is
    overwritten the host runs ahead, so this is the device's time, unless a call waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._scratch = torch.empty(2 * torch.cuda.get_device_properties(device).L2_cache_size, dtype=torch.uint8)
        self._scratch = self._scratch.to(device)

    def __call__(self, function: Callable[[], Any], repeats: int) -> float:
        """Seconds of all calls together."""
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        torch.cuda.synchronize()
        for start, end in events:
            self._scratch.zero_()
            start.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return sum(float(start.elapsed_time(end)) for start, end in events) / 1e3


def timer_for(device: torch.device) -> Callable[[int], Timer]:
    """Gives the clock for a case that moves so many bytes on a device."""
    if device.type != "cuda":
        return lambda size: wall_timer
    cold = ColdCudaTimer(device)
    return lambda size: cold if size >= COLD_BYTES else cuda_timer


def measure(
    run: dict[str, Callable[[], Any]],
    seconds: float,
    timer: Timer = wall_timer,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times functions in rounds, each round running every one of them, so that a busy machine disturbs all alike.

    Args:
        run: Functions by name; those after the first are its peers.
        seconds: Time to spend; at least five rounds are run, however long they take, or three of calls over a second.
        timer: Measures repeated calls.
        clock: Tells how much of ``seconds`` is gone.

    Returns:
        The timings by name, and by peer the median over the rounds of peer / first.
    """
    repeats, least = {}, MIN_ROUNDS
    for name, function in run.items():
        once = timer(function, 1)
        if once < LONG_SECONDS:  # that was to warm up
            once = timer(function, 1)
        else:
            least = LONG_ROUNDS
        repeats[name] = min(MAX_REPEATS, max(1, round(SAMPLE_SECONDS / max(once, 1e-9) + 0.5)))
    samples: dict[str, list[float]] = {name: [] for name in run}
    order = list(run)
    start, rounds = clock(), 0
    with _no_garbage_collection():
        while rounds < least or (rounds < MAX_ROUNDS and clock() - start < seconds):
            for name in order:
                samples[name].append(timer(run[name], repeats[name]) / repeats[name])
            order.reverse()  # so that nobody always runs after the same neighbour
            rounds += 1
    first, *peers = run
    timings = {name: _summary(values, repeats[name]) for name, values in samples.items()}
    return timings, {p: statistics.median(map(_divide, samples[p], samples[first])) for p in peers}


def copy_speed(device: torch.device, timer: Timer | None = None, size: int = 256 << 20) -> float:
    """Bytes per second, read plus written, of ``copy_`` between two tensors of ``size`` bytes that no cache holds."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    timings, _ = measure({"copy": lambda: target.copy_(source)}, 0.5, timer or timer_for(device)(2 * size))
    return 2 * size / timings["copy"].median


def _summary(values: list[float], repeats: int) -> Timing:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high, len(values), repeats)


def _divide(a: float, b: float) -> float:
    return a / b


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
