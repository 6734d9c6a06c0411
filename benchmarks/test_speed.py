"""Every case and side under pytest-benchmark, grouped by case: ``pytest benchmarks --benchmark-enable``."""

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from . import common
from .common import Case


class Cursor:
    """Steps through the cases with the tests, so that one case's inputs are held at a time."""

    def __init__(self) -> None:
        self.cases: Iterator[Case] = iter(())
        self.current: Case | None = None

    def find(self, op: str, name: str) -> Case:
        """Moves on to a case, or round again if it lies behind."""
        for _ in range(2):
            while self.current:
                if (self.current.op, self.current.name) == (op, name):
                    return self.current
                self.current = next(self.cases, None)
            self.cases = all_cases()
            self.current = next(self.cases, None)
        raise LookupError(f"no case {op}, {name}")


def all_cases() -> Iterator[Case]:
    """The cases of ``detops bench`` without options."""
    return common.cases(torch.device("cpu"), torch.float32)


CURSOR = Cursor()
NAMES = [(case.op, case.name, side) for case in all_cases() for side in case.run]


@pytest.mark.parametrize(("op", "name", "side"), NAMES, ids=[" ".join(parts) for parts in NAMES])
def test_speed(benchmark: BenchmarkFixture, op: str, name: str, side: str) -> None:
    case = CURSOR.find(op, name)
    if side == "detops":
        assert common.disagreement(case) == ""
    benchmark.group = f"{op}: {name}"
    benchmark(case.run[side])
