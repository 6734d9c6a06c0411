"""A module of detops in the place of another package's compiled one."""

import importlib
import importlib.machinery
import importlib.util
import sys


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
