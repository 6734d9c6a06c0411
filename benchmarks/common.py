"""What a benchmark case is, how its sides are checked against each other, and where cases are found."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

# (relative, absolute); wide enough for another order of summation, far below a wrong formula.
TOLERANCES = {
    torch.float64: (1e-7, 1e-8),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (4e-3, 1e-3),
    torch.bfloat16: (3e-2, 1e-2),
}


@dataclass
class Case:
    """One workload, run by detops and by those it is compared with.

    Args:
        op: Operator, ``"roi_align"``.
        name: Workload in short, ``"P2 1x256x200x304, 512 boxes, forward"``; unique within the operator.
        run: Side to call, without arguments; ``"detops"`` first, then ``"torchvision"``, or ``"pytorch"`` for a plain
            PyTorch formulation, then any others (``"torchvision, channels_last"``). A peer that cannot run the case is
            left out.
        bytes: Least bytes to move: each input read once, each output written once.
        check: Called with the results of detops and of a peer, raises ``AssertionError`` if they disagree. By default
            :func:`torch.testing.assert_close` with the dtype's tolerance; nested tuples, lists and dicts are allowed.
        quick: Whether ``--quick`` runs it: one or two small or medium cases per operator.
        note: What a reader of the table should know, ``"peer has no bfloat16"``.
        series: Cases of one operator that differ in size alone share this label: ``"disjoint boxes"``.
        size: Position in the series: the number of boxes.
    """

    op: str
    name: str
    run: dict[str, Callable[[], Any]]
    bytes: int
    check: Callable[[Any, Any], None] | None = None
    quick: bool = False
    note: str = ""
    series: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        """Refuses a case without detops in front."""
        if next(iter(self.run), None) != "detops":
            raise ValueError(f"Case {self.op}, {self.name}: expected run to begin with 'detops', got {list(self.run)}")

    @property
    def peers(self) -> list[str]:
        """Sides other than detops, the main one first."""
        return list(self.run)[1:]


def agree(actual: Any, expected: Any) -> None:
    """Raises ``AssertionError`` unless two results, tensors or containers of them, are close for their dtype."""
    rtol, atol = max((TOLERANCES[dtype] for dtype in _dtypes(expected) if dtype in TOLERANCES), default=(0.0, 0.0))
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def disagreement(case: Case) -> str:
    """Runs each side of a case once; returns the first line of what is wrong, or "" if all agree with detops."""
    check = case.check or agree
    side = "detops"
    try:
        actual = case.run[side]()
        for side in case.peers:
            check(actual, case.run[side]())
    except AssertionError as error:
        return f"disagrees with {side}: {' '.join(str(error).split()) or 'check failed'}"
    except Exception as error:
        return f"{side} failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def modules() -> dict[str, ModuleType]:
    """Imports every ``bench_<name>.py`` of this package; returns them by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(_package().__path__) if m.name.startswith("bench_"))
    return {name.removeprefix("bench_"): importlib.import_module(f"{_package().__name__}.{name}") for name in names}


def operators(module_name: str, module: ModuleType) -> tuple[str, ...]:
    """Operators that a benchmark module times: its ``OPERATORS``, or the one it is named after."""
    return tuple(getattr(module, "OPERATORS", (module_name,)))


def cases(device: torch.device, dtype: torch.dtype, ops: Sequence[str] = (), quick: bool = False) -> Iterator[Case]:
    """Yields the cases of the chosen operators (all by default), building each one's inputs only when it is reached."""
    for name, module in modules().items():
        if ops and not set(ops) & set(operators(name, module)):
            continue
        for case in module.cases(device, dtype):
            if (not ops or case.op in ops) and (case.quick or not quick):
                yield case


def _package() -> ModuleType:
    return importlib.import_module(__package__ or "detops.benchmarks")


def _dtypes(result: Any) -> Iterator[torch.dtype]:
    if isinstance(result, torch.Tensor):
        yield result.dtype
    elif isinstance(result, dict):
        for value in result.values():
            yield from _dtypes(value)
    elif isinstance(result, (list, tuple)):
        for value in result:
            yield from _dtypes(value)
