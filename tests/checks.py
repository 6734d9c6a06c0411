"""What every operator must do, whatever it computes: one call, `check_operator(function, samples)`, tests all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sample:
    """Arguments of one call. Floating tensors are float64; their values must be exact in the dtypes tested.

    Args:
        args: Positional arguments; tensors, or lists of them, among others.
        kwargs: Keyword arguments.
        differentiable: Positions in ``args`` of the tensors with a gradient.
        castable: Positions in ``args`` of the tensors whose dtype the caller chooses; default: all floating ones.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    differentiable: tuple[int, ...] = ()
    castable: tuple[int, ...] | None = None

    def on(self, device: torch.device) -> "Sample":
        args = tree_map_only(Tensor, lambda t: t.to(device), self.args)
        return Sample(args, self.kwargs, self.differentiable, self.castable)

    def to(self, dtype: torch.dtype) -> "Sample":
        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        chosen = range(len(self.args)) if self.castable is None else self.castable
        args = [tree_map_only(Tensor, cast, arg) if i in chosen else arg for i, arg in enumerate(self.args)]
        return Sample(tuple(args), self.kwargs, self.differentiable, self.castable)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Sample":
        return Sample(tree_map_only(Tensor, change, self.args), self.kwargs, self.differentiable, self.castable)


def check_operator(
    function: Callable[..., Any],
    samples: Sequence[Sample],
    device: torch.device,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, *LOW_PRECISION),
    tolerance: float = 4.0,
    second_derivative: bool = False,
    export: bool = True,
) -> None:
    """Test what all operators share: see the functions below, each of which this calls.

    Args:
        function: The public function.
        samples: Calls to test with; give one with every empty dimension that is allowed, too.
        device: Where to run.
        dtypes: Those that the tensors may have.
        tolerance: Of a low precision's result: in rounding errors of that precision, relative to the largest value.
        second_derivative: Whether the gradient is differentiable as well.
        export: Whether ``torch.export`` takes the function.
    """
    for sample in samples:
        placed = sample.on(device)
        check_registration(function, placed)
        check_determinism(function, placed)
        check_strides(function, placed)
        check_dtypes(function, placed, dtypes, tolerance)
        if sample.differentiable:
            check_gradient(function, placed, second_derivative)
        check_compile(function, placed)
        if export:
            check_export(function, placed)


def check_registration(function: Callable[..., Any], sample: Sample) -> None:
    """``torch.library.opcheck`` on every operator of ours that the call, forward and backward, goes through."""
    with RecordOperators() as record:
        run(function, sample)
        if sample.differentiable:
            gradients(function, sample)
    assert record.calls, "the function went through no operator of detops"
    for op, args, kwargs in record.calls:
        torch.library.opcheck(op, args, kwargs)


def check_determinism(function: Callable[..., Any], sample: Sample) -> None:
    """The same bits from the same call, forward and backward."""
    assert_equal(run(function, sample), run(function, sample))
    if sample.differentiable:
        assert_equal(gradients(function, sample), gradients(function, sample))


def check_strides(function: Callable[..., Any], sample: Sample) -> None:
    """The same bits whatever the layout: every second element, transposed in memory, channels last, expanded."""
    expected = run(function, sample)
    for layout in (_every_second, _transposed, _channels_last):
        assert_equal(run(function, sample.map(layout)), expected)
    if sample.differentiable:
        expected = gradients(function, sample)
        assert_equal(gradients(function, sample.map(_every_second)), expected)
        assert_equal(gradients(function, sample.map(_transposed)), expected)


def check_dtypes(function: Callable[..., Any], sample: Sample, dtypes: Sequence[torch.dtype], tolerance: float) -> None:
    """Each dtype gives the float64 result of the same (rounded) inputs, to a few rounding errors of that dtype."""
    for dtype in dtypes:
        low = sample.to(dtype)
        actual, expected = tree_flatten(run(function, low))[0], tree_flatten(run(function, low.to(torch.float64)))[0]
        for a, e in zip(actual, expected, strict=True):
            assert a.device == e.device
            if not a.is_floating_point():
                assert torch.equal(a, e), f"{dtype}: {a} is not {e}"
                continue
            scale = e.abs().max().item() if e.numel() else 0.0
            error = (a.double() - e.double()).abs().max().item() if e.numel() else 0.0
            assert error <= tolerance * torch.finfo(a.dtype).eps * max(scale, 1e-30) + 1e-30, (
                f"{dtype}: off by {error} where the largest value is {scale}"
            )


def check_gradient(function: Callable[..., Any], sample: Sample, second_derivative: bool = False) -> None:
    """Analytic against numeric derivatives in float64."""

    def of_leaves(*leaves: Tensor) -> tuple[Tensor, ...]:
        outputs = tree_flatten(function(*_with_leaves(sample, leaves), **sample.kwargs))[0]
        return tuple(t for t in outputs if t.is_floating_point() and t.requires_grad)

    leaves = _leaves(sample.to(torch.float64))
    if all(leaf.numel() == 0 for leaf in leaves):
        return
    assert torch.autograd.gradcheck(of_leaves, leaves, check_batched_grad=False)
    if second_derivative:
        assert torch.autograd.gradgradcheck(of_leaves, leaves, check_batched_grad=False)


def check_compile(function: Callable[..., Any], sample: Sample) -> None:
    """``torch.compile`` without graph breaks, sizes static and dynamic, forward and backward."""
    expected = run(function, sample)
    expected_grad = gradients(function, sample) if sample.differentiable else None
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        assert_equal(run(compiled, sample), expected)
        if expected_grad is not None:
            assert_equal(gradients(compiled, sample), expected_grad)


def check_export(function: Callable[..., Any], sample: Sample) -> None:
    """``torch.export`` takes the function, and the exported program gives the same result."""

    class Module(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    program = torch.export.export(Module(), sample.args, sample.kwargs)
    assert_equal(program.module()(*sample.args, **sample.kwargs), run(function, sample))


class RecordOperators(TorchDispatchMode):
    """Collects the calls of operators of detops that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "detops":
            self.calls.append((func, tree_map_only(Tensor, torch.Tensor.detach, args), kwargs))
        return func(*args, **kwargs)


def run(function: Callable[..., Any], sample: Sample) -> Any:
    return function(*sample.args, **sample.kwargs)


def gradients(function: Callable[..., Any], sample: Sample) -> tuple[Tensor, ...]:
    """Gradients of a fixed weighted sum of all floating outputs."""
    leaves = _leaves(sample)
    outputs = tree_flatten(function(*_with_leaves(sample, leaves), **sample.kwargs))[0]
    outputs = [t for t in outputs if t.is_floating_point() and t.requires_grad]
    weights = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view_as(t) for t in outputs]
    return torch.autograd.grad(outputs, leaves, weights, allow_unused=True)


def assert_equal(actual: Any, expected: Any) -> None:
    """Bit for bit, NaN included."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def _leaves(sample: Sample) -> tuple[Tensor, ...]:
    def leaf(tensor: Tensor) -> Tensor:
        copy = tensor.detach()
        return (copy.clone() if copy.is_contiguous() else copy.as_strided(copy.size(), copy.stride())).requires_grad_()

    return tuple(leaf(sample.args[i]) for i in sample.differentiable)


def _with_leaves(sample: Sample, leaves: Sequence[Tensor]) -> tuple[Any, ...]:
    args = list(sample.args)
    for i, leaf in zip(sample.differentiable, leaves, strict=True):
        args[i] = leaf
    return tuple(args)


def _every_second(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, 77)], dim=-1)[..., 0] if t.dim() else t


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() >= 2 else t


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
