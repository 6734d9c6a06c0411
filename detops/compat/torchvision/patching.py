"""Switching torchvision to detops, and back."""

import threading
from types import TracebackType

from .functions import FUNCTIONS
from .kernels import Kernels
from .models import METHODS
from .redirect import Redirection

_CHANGES: list[Redirection | Kernels] = [
    *(Redirection(function, replacement) for function, replacement in (*FUNCTIONS, *METHODS)),
    Kernels(),
]


class _State:
    """What wants torchvision patched: a call of :func:`patch` that lasts, and blocks that are open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.lasting = False
        self.blocks = 0
        self.on = False

    def update(self) -> None:
        wanted = self.lasting or self.blocks > 0
        if wanted and not self.on:
            self._start()
        elif self.on and not wanted:
            self._end()
        self.on = wanted

    def _start(self) -> None:
        try:
            for change in _CHANGES:
                change.start()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        for change in reversed(_CHANGES):
            change.end()


_STATE = _State()


class Patch:
    """What :func:`patch` returns: as a context manager, it ends with its block."""

    def __init__(self, was_lasting: bool) -> None:
        self._was_lasting = was_lasting

    def __enter__(self) -> "Patch":
        with _STATE.lock:
            _STATE.blocks += 1
            _STATE.lasting = self._was_lasting
            _STATE.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _STATE.lock:
            _STATE.blocks -= 1
            _STATE.update()


def patch() -> Patch:
    """Run torchvision on detops: from now on, or for a block.

    It is for the whole process, all threads. Once patched, patching again changes nothing. Blocks, ``with patch():``,
    may be nested and may overlap in threads: the last to end restores. An exception ends a block as its end does.

    Returns:
        A context manager, to be ignored unless a block is meant.
    """
    with _STATE.lock:
        was_lasting, _STATE.lasting = _STATE.lasting, True
        try:
            _STATE.update()
        except BaseException:
            _STATE.lasting = was_lasting
            raise
    return Patch(was_lasting)


def unpatch() -> None:
    """End what :func:`patch` began, however often it was called; torchvision is as it was.

    Blocks of ``with patch():`` that are still open keep it patched until they end.
    """
    with _STATE.lock:
        _STATE.lasting = False
        _STATE.update()


def is_patched() -> bool:
    """Whether torchvision runs on detops now."""
    return _STATE.on
