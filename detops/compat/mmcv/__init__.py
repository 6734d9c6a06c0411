"""The compiled module ``mmcv._ext`` for an mmcv without one: ``mmcv-lite``, or one that does not build.

``detops/compat/mmcv.md`` says what is covered.
"""

from .._compiled import provide


def install(*, force: bool = False) -> bool:
    """Let ``mmcv.ops`` find its compiled functions in detops.

    Once in a process is enough, before or after ``mmcv`` is imported, and after ``mmcv.ops`` could not be. Further
    calls change nothing.

    Args:
        force: Whether to take the place of a compiled module that is already there.

    Returns:
        Whether ``mmcv.ops`` runs on detops now: False if it has a compiled module of its own and ``force`` is not set.

    Raises:
        RuntimeError: If ``force`` is set and ``mmcv.ops`` already runs on another module.
    """
    return provide("mmcv._ext", "detops.compat.mmcv._ext", "mmcv.ops", force=force)
