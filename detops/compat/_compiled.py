"""A module of detops in the place of another package's compiled one."""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def provide(name: str, ours: str, user: str, *, force: bool) -> bool:
    """Put one of detops's modules where a package looks for its compiled one.

    Args:
        name: Of the compiled module.
        ours: Of what stands in for it.
        user: Of the first module to import ``name``, which it does once and for all.
        force: Whether to take the place of a compiled module that is there.

    Returns:
        Whether detops's module is the one in use.

    Raises:
        RuntimeError: If ``user`` is imported already, without detops's module.
    """
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__name__ == ours:
        return True
    if not force and (loaded is not None or _is_compiled(name)):
        return False
    if user in sys.modules:
        what = "without it" if loaded is None else f"with that of {getattr(loaded, '__file__', None) or 'elsewhere'}"
        raise RuntimeError(
            f"{name}: too late, {user} is already imported {what}; install before anything imports {user}"
        )
    sys.modules[name] = importlib.import_module(ours)
    return True


def _is_compiled(name: str) -> bool:
    """Whether the package that would be imported has such a module; imports nothing."""
    package = importlib.util.find_spec(name.partition(".")[0])
    if package is None or package.submodule_search_locations is None:
        return False
    return importlib.machinery.PathFinder.find_spec(name, package.submodule_search_locations) is not None


def missing_function(module: str, stand_in: str, name: str) -> Callable[..., NoReturn]:
    """What ``module.name`` is where detops has no such function: it can be imported, but not called.

    Args:
        module: Compiled module, as its users know it.
        stand_in: Name of detops's module in its place.
        name: What was asked for.

    Raises:
        AttributeError: If ``name`` is one of Python's own.
        NotImplementedError: When the result is called.
    """
    if name.startswith("__"):
        raise AttributeError(f"module {stand_in!r} has no attribute {name!r}")

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"{module}.{name}: not among the functions that detops provides")

    missing.__name__ = missing.__qualname__ = name
    return missing
