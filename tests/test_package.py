"""The package as a whole: what importing it costs, what it exposes, how it is documented."""

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import detops

OPERATORS = [name for name, value in vars(detops.ops).items() if inspect.isfunction(value)]
MODULES = [name for name, value in vars(detops.ops).items() if inspect.isclass(value)]


def test_import_needs_torch_and_numpy_only() -> None:
    program = (
        "import sys, numpy, torch\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import detops\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - before))"
    )
    # -P: not the source tree that the tests may be run from.
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["detops"]


def test_version() -> None:
    assert detops.__version__ == importlib.metadata.version("detops")


def test_types_are_declared() -> None:
    assert Path(detops.__file__).with_name("py.typed").exists()
    for name in OPERATORS:
        hints = inspect.get_annotations(getattr(detops.ops, name))
        assert set(hints) == {*inspect.signature(getattr(detops.ops, name)).parameters, "return"}, name


@pytest.mark.parametrize("name", OPERATORS)
def test_documentation(name: str) -> None:
    """Arguments, result and errors of every public function."""
    documentation = inspect.getdoc(getattr(detops.ops, name)) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in documentation, f"{name} says nothing of {section}"
    for parameter in inspect.signature(getattr(detops.ops, name)).parameters:
        assert f"{parameter}:" in documentation, f"{name} says nothing of {parameter}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_documented_and_print_their_settings(name: str) -> None:
    module = getattr(detops.ops, name)
    assert inspect.getdoc(module)
    assert issubclass(module, torch.nn.Module)


def test_signatures_are_torchvisions() -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    for name in OPERATORS:
        if not hasattr(peer, name):
            continue
        ours, theirs = (inspect.signature(getattr(ops, name)).parameters for ops in (detops.ops, peer))
        assert list(ours) == list(theirs), name
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()], name


def test_every_operator_has_a_fake_kernel() -> None:
    """Or torch.compile and torch.export would not take it."""
    names = {s.name.removeprefix("detops::") for s in torch._C._jit_get_all_schemas() if s.name.startswith("detops::")}
    assert names
    for name in names:
        assert torch._library.simple_registry.singleton.find(f"detops::{name}").fake_impl.kernel is not None, name


def test_instruction_sets() -> None:
    supported = detops._C.instruction_sets()
    assert supported[0] == "baseline"
    assert detops._C.instruction_set() in supported
    with pytest.raises(ValueError, match="set_instruction_set: expected one that this processor supports, got 'mmx'"):
        detops._C.set_instruction_set("mmx")


def test_table_of_operators_in_readme() -> None:
    """A row for every public name; a kernel where it says so; a test that is there."""
    root = Path(__file__).parents[1]
    table = (root / "README.md").read_text().partition("## Operators")[2].partition("## Detectors")[0]
    listed: list[str] = []
    for row in re.findall(r"^\| (`.+)\|$", table, re.MULTILINE):
        names, _, _, cpu, cuda, _, _, test, _ = (cell.strip() for cell in row.split("|"))
        listed += re.findall(r"`(\w+)`", names)
        assert (root / test.partition("(")[2].strip("()")).exists(), names
        kernels = [getattr(torch.ops.detops, name, None) for name in listed[-names.count("`") // 2 :]]
        registered = [
            op for op in kernels if op and torch._C._dispatch_has_kernel_for_dispatch_key(op.default.name(), "CPU")
        ]
        assert (cpu == "✓") == bool(registered), names
        source = Path(test.partition("test_")[2].strip("()")).with_suffix(".cu")
        assert (cuda == "✓") == (root / "csrc/ops" / source).exists(), names
    assert sorted(listed) == sorted([*OPERATORS, *MODULES])
