"""A function's code exchanged for another's, so that whoever holds the function, under whatever name, calls the other.

The function object stays: modules that imported it earlier, closures, attributes of models and pickles need no search.
"""

import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import torch

Replacement = Callable[..., Any]  # (original, *arguments); the original does what the function did


class Redirection:
    """One function, and where its calls go while the redirection is on.

    Arguments arrive by position, in the order of the signature, defaults filled in. Traces of ``torch.jit.trace`` and
    the legacy ONNX exporter go to the original; so does TorchScript, which compiles the source that it finds through
    ``__wrapped__``. ``torch.compile`` and ``torch.export`` follow the replacement.

    Args:
        function: A function, or a method as its class holds it; neither a closure nor with keyword-only arguments.
        replacement: Called with the original, then the arguments.
    """

    def __init__(self, function: FunctionType, replacement: Replacement) -> None:
        self.function = function
        self.original = _twin(function)
        self._name = f"_detops_{function.__qualname__.replace('.', '_')}"
        self._detour = _detour(function, self._name)
        self._stand_in = _stand_in(self.original, replacement)

    def start(self) -> None:
        # The name stays behind when the redirection ends: another thread may be about to look it up.
        self.function.__globals__[self._name] = self._stand_in
        self.function.__dict__["__wrapped__"] = self.original
        self.function.__code__ = self._detour

    def end(self) -> None:
        self.function.__code__ = self.original.__code__
        self.function.__dict__.pop("__wrapped__", None)


def _twin(function: FunctionType) -> FunctionType:
    """Another function that does the same."""
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    functools.update_wrapper(twin, function)
    del twin.__dict__["__wrapped__"]
    return twin


def _detour(function: FunctionType, name: str) -> CodeType:
    """Code with the function's own parameters, which ``torch.compile`` remembers, that calls a global of its module."""
    parameters = ", ".join(inspect.signature(function).parameters)
    scope: dict[str, Any] = {}
    exec(f"def detour({parameters}):\n    return {name}({parameters})", scope)
    return scope["detour"].__code__.replace(co_name=function.__name__, co_qualname=function.__qualname__)


def _stand_in(original: FunctionType, replacement: Replacement) -> Callable[..., Any]:
    def stand_in(*args: Any) -> Any:
        if not torch.compiler.is_compiling() and _is_traced_or_transformed():
            return original(*args)
        return replacement(original, *args)

    return stand_in


def _is_traced_or_transformed() -> bool:
    """In ``torch.jit.trace``, a transform of ``torch.func`` or forward-mode differentiation."""
    return (
        torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )
