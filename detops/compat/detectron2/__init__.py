"""The compiled module ``detectron2._C`` for a detectron2 without one.

``detops/compat/detectron2.md`` says what is covered.
"""

from .._compiled import provide


def install(*, force: bool = False) -> bool:
    """Let ``detectron2.layers`` find its compiled functions in detops: call it before anything imports these layers.

    Args:
        force: Whether to take the place of a compiled module that is already there.

    Returns:
        Whether detectron2 runs on detops now: False if it has a compiled module of its own and ``force`` is not set.

    Raises:
        RuntimeError: If ``detectron2.layers`` is already imported, without detops.
    """
    return provide("detectron2._C", "detops.compat.detectron2._functions", "detectron2.layers", force=force)
