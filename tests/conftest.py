"""Fixtures: where an operator test runs, and a seed."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from emulation import operators
from emulation.build import BuildError
from emulation.build import operators as kernels

import detops


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--widest",
        action="store_true",
        help="on the CPU, test the widest instruction set only, and no emulated kernels",
    )


def _places(module: str) -> list[str]:
    """The CPU with each instruction set that it has; for operators with a CUDA kernel that too, emulated and real."""
    places = [f"cpu-{name}" for name in detops._C.instruction_sets()]
    operator = module.rpartition(".")[2].removeprefix("test_")
    if operator in kernels():
        places.append("emulated")
    if torch.cuda.is_available() and _has_cuda(operator):
        places.append("cuda")
    return places


def _has_cuda(family: str) -> bool:
    """Whether an operator has a CUDA kernel, or those of a family: ``generalized_box_iou_loss`` of ``box_iou_loss``."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("detops::")]
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in names if name.endswith(family))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" not in metafunc.fixturenames:
        return
    places = _places(metafunc.module.__name__)
    if "gpu" in metafunc.fixturenames:
        places = [place for place in places if not place.startswith("cpu")]
    if any(metafunc.definition.get_closest_marker(name) for name in ("threads", "large")):
        places = [place for place in places if place != "emulated"]  # which has one thread, and is slow
    widest = f"cpu-{detops._C.instruction_set()}"
    if metafunc.config.getoption("widest"):
        places = [place for place in places if place in (widest, "cuda")]
    if metafunc.definition.get_closest_marker("one_instruction_set"):
        places = [place for place in places if place == widest or not place.startswith("cpu")]
    metafunc.parametrize("device", places, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each place that kernels run."""
    kind, _, instruction_set = request.param.partition("-")
    with _emulated() if kind == "emulated" else _instruction_set(instruction_set or detops._C.instruction_set()):
        yield torch.device("cuda" if kind == "cuda" else "cpu")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """Each place that CUDA kernels run, emulated and real: for what these do otherwise than the CPU's."""
    return device


@contextlib.contextmanager
def _instruction_set(name: str) -> Iterator[None]:
    before = detops._C.instruction_set()
    detops._C.set_instruction_set(name)
    yield
    detops._C.set_instruction_set(before)


@contextlib.contextmanager
def _emulated() -> Iterator[None]:
    try:
        operators.load()
    except BuildError as error:
        pytest.skip(f"no emulated kernels: {error}")
    with operators.emulated():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread_for_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Layers of small images are too little work for several threads, which would wait for each other."""
    before = torch.get_num_threads()
    if request.path.parent.name != "ops" and not request.node.get_closest_marker("threads"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
