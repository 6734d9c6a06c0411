"""detops.compat.mmcv.install, with stand-ins for mmcv: a package that asks for its compiled module as mmcv.ops does."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from detops.compat import mmcv
from detops.compat.mmcv import _ext

OPS = """
import importlib
ext_module = importlib.import_module("mmcv._ext")
assert hasattr(ext_module, "nms") and hasattr(ext_module, "sync_bn_forward_mean")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``mmcv`` without compiled module, instead of any that is installed or imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmcv"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "mmcv"
    (folder / "ops").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "ops" / "__init__.py").write_text(OPS)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmcv"]:
        del sys.modules[name]


def functions_of_ops() -> ModuleType:
    return importlib.import_module("mmcv.ops").ext_module


def test_before_mmcv_is_imported(package: Path) -> None:
    assert mmcv.install() and mmcv.install()
    assert "mmcv" not in sys.modules
    assert functions_of_ops() is _ext
    assert importlib.util.find_spec("mmcv._ext").loader is not None  # what mmcv.utils.check_ops_exist looks at


def test_after_mmcv_ops_failed(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"mmcv\._ext"):
        importlib.import_module("mmcv.ops")
    assert mmcv.install()
    assert functions_of_ops() is _ext


def test_a_compiled_module_stays_unless_forced(package: Path) -> None:
    (package / "_ext.py").write_text("nms = sync_bn_forward_mean = None")
    assert not mmcv.install()
    assert "mmcv" not in sys.modules
    assert functions_of_ops().nms is None
    assert not mmcv.install()
    with pytest.raises(RuntimeError, match=r"too late, mmcv\.ops is already imported with that of .*_ext\.py"):
        mmcv.install(force=True)


def test_forced_before_mmcv_ops_is_imported(package: Path) -> None:
    (package / "_ext.py").write_text("nms = sync_bn_forward_mean = None")
    assert mmcv.install(force=True)
    assert functions_of_ops() is _ext


def test_other_functions_can_be_asked_for_but_not_called() -> None:
    with pytest.raises(NotImplementedError, match=r"mmcv\._ext\.sync_bn_forward_mean"):
        _ext.sync_bn_forward_mean(1, out=2)
    with pytest.raises(AttributeError, match="__wrapped__"):
        _ext.__wrapped__  # noqa: B018


def test_importing_detops_imports_none_of_it() -> None:
    program = "import sys, detops; print([name for name in sys.modules if 'mmcv' in name or 'compat' in name])"
    found = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert "detops" not in found.stdout and "mmcv" not in found.stdout
