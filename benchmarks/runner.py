"""The run itself: every case checked, then timed, at every number of threads."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from detops import _info
from detops._errors import UserError

from . import common, counting, timing, workloads
from .common import Case
from .results import Results, Row

Progress = Callable[[str], None]  # told what runs next


@dataclass(frozen=True)
class Settings:
    """What to run and how; ``ops`` empty means all, ``seconds`` is per case and number of threads."""

    ops: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    threads: tuple[int, ...] = (1,)
    quick: bool = False
    boxes: str | None = None
    seconds: float = 1.0

    def check(self) -> None:
        """Raises ``UserError`` if this machine or package lacks something asked for; reads the boxes."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("bench: --device cuda: torch finds no usable CUDA device")
        if max(self.threads) > (os.cpu_count() or 1):
            raise UserError(f"bench: --threads {max(self.threads)}: this machine has {os.cpu_count()} cores")
        try:
            known = [op for name, module in common.modules().items() for op in common.operators(name, module)]
        except ModuleNotFoundError as error:
            raise UserError(f'bench: needs {error.name} to compare with: pip install "detops[bench]"') from error
        for op in self.ops:
            if op not in known:
                raise UserError(f"bench: unknown operator {op!r}, expected some of {' '.join(known)}")
        workloads.use_boxes(self.boxes)


def new_results(settings: Settings) -> Results:
    """An empty record of a run on this machine."""
    described = {
        "device": settings.device,
        "dtype": settings.dtype,
        "threads": list(settings.threads),
        "seconds": settings.seconds,
        "boxes": Path(settings.boxes).name if settings.boxes else "synthetic",
        "allocator": _info.allocator(),
        "OpenMP": _info.openmp(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return Results(described, _info.machine(), _info.versions())


def run(settings: Settings, results: Results, progress: Progress = lambda text: None) -> None:
    """Runs the chosen cases, appending to ``results`` as it goes, so that an interrupted run keeps what it has."""
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    before = torch.get_num_threads()
    try:
        for threads in settings.threads:
            progress(f"copy speed, {plural(threads, 'thread')}")
            torch.set_num_threads(threads)
            results.copy_speed[threads] = timing.copy_speed(device)
        run_cases(common.cases(device, dtype, settings.ops, settings.quick), settings, results, progress)
    finally:
        torch.set_num_threads(before)


def run_cases(
    cases: Iterable[Case],
    settings: Settings,
    results: Results,
    progress: Progress = lambda text: None,
    timer: timing.Timer | None = None,
) -> None:
    """Checks and times each case at each number of threads; its data is gone before the next case is built."""
    device = torch.device(settings.device)
    timer_for = timing.timer_for(device) if timer is None else lambda size: timer
    for case in cases:
        for threads in settings.threads:
            progress(f"{case.op}  {case.name}, {plural(threads, 'thread')}")
            torch.set_num_threads(threads)
            row = Row(case.op, case.name, threads, case.bytes, note=case.note, series=case.series, size=case.size)
            row.error = common.disagreement(case)
            if not row.error:
                row.timings, row.ratios = timing.measure(case.run, settings.seconds, timer_for(case.bytes))
                if device.type == "cuda":
                    row.work = {side: counting.device_work(function) for side, function in case.run.items()}
            results.rows.append(row)


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 thread", "2 threads"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
