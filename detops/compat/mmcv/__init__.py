"""The compiled module ``mmcv._ext`` for an mmcv without one: ``mmcv-lite``, or one that does not build.

``detops/compat/mmcv.md`` says what is covered.
"""

import importlib
import importlib.machinery
import importlib.util
import sys

_NAME = "mmcv._ext"
_OURS = "detops.compat.mmcv._ext"


def install(*, force: bool = False) -> bool:
    """Let ``mmcv.ops`` find its compiled functions in detops.

    Once a process is enough, before or after ``mmcv`` and ``mmdet`` are imported; only ``mmcv.ops`` itself must come
    later, and does wherever it could not be imported before. Further calls change nothing.

    Args:
        force: Whether to take the place of a compiled module that is already there.

    Returns:
        Whether ``mmcv.ops`` runs on detops now: False if it has a compiled module of its own and ``force`` is not set.

    Raises:
        RuntimeError: If ``force`` is set and ``mmcv.ops`` already runs on another module.
    """
    loaded = sys.modules.get(_NAME)
    if loaded is not None and loaded.__name__ == _OURS:
        return True
    if not force and (loaded is not None or _is_compiled()):
        return False
    if loaded is not None and "mmcv.ops" in sys.modules:
        where = getattr(loaded, "__file__", None) or "elsewhere"
        raise RuntimeError(
            f"detops.compat.mmcv.install: mmcv.ops already runs on the {_NAME} of {where}: call install(force=True)"
            " before anything imports mmcv.ops"
        )
    sys.modules[_NAME] = importlib.import_module(_OURS)
    return True


def _is_compiled() -> bool:
    """Whether the mmcv that would be imported has a compiled module; imports nothing."""
    package = importlib.util.find_spec("mmcv")
    if package is None or package.submodule_search_locations is None:
        return False
    return importlib.machinery.PathFinder.find_spec(_NAME, package.submodule_search_locations) is not None
