"""Fixtures: where an operator test runs, and a seed."""

from collections.abc import Iterator

import pytest
import torch

import detops


def _places() -> list[str]:
    places = [f"cpu-{name}" for name in detops._C.instruction_sets()]
    if torch.cuda.is_available() and torch._C._dispatch_has_kernel_for_dispatch_key("detops::box_iou", "CUDA"):
        places.append("cuda")
    return places


@pytest.fixture(params=_places())
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each place that kernels run: the CPU with each instruction set that it has, and CUDA where there is one."""
    kind, _, instruction_set = request.param.partition("-")
    if kind == "cuda":
        yield torch.device("cuda")
        return
    before = detops._C.instruction_set()
    detops._C.set_instruction_set(instruction_set)
    yield torch.device("cpu")
    detops._C.set_instruction_set(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
