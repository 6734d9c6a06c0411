"""What losses share: the reductions, and autograd that takes the gradient from the forward pass where it can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _checks

REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
HALF = (torch.float16, torch.bfloat16)


def reduction_number(op: str, reduction: str) -> int:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
    return REDUCTIONS[reduction]


def is_wide(tensor: Tensor) -> bool:
    """Whether the loss of a half-precision tensor is float32, as PyTorch's own is under autocast."""
    return tensor.dtype in HALF and not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def check_reduction(op: str, reduction: int, least: int = 0) -> None:
    if not least <= reduction <= 2:
        _checks.fail(op, f"expected reduction from {least} to 2, got {reduction}")


def is_traced() -> bool:
    """Whether anything but plain eager execution looks on: a compiler, a functional transform, a dispatch mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


def check_same_shape(op: str, a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    if a.shape != b.shape:
        _checks.fail(op, f"expected {b_name} of the shape of {a_name}, {_shape(a)}, got {_shape(b)}")


def check_pair(op: str, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """What losses of elements check of their tensors."""
    _checks.check_floating(op, "input", input)
    _checks.check_floating(op, "target", target)
    check_same_shape(op, "input", input, "target", target)
    _checks.check_same_device(op, "input", input, "target", target)
    if weight is not None:
        check_weight(op, "input", input, weight)


def check_weight(op: str, input_name: str, input: Tensor, weight: Tensor) -> None:
    _checks.check_floating(op, "weight", weight)
    sizes = zip(reversed(weight.shape), reversed(input.shape), strict=False)
    if weight.dim() > input.dim() or not all(size in (1, whole) for size, whole in sizes):
        shapes = f"{_shape(input)}, got {_shape(weight)}"
        _checks.fail(op, f"expected weight that broadcasts to the shape of {input_name}, {shapes}")
    _checks.check_same_device(op, input_name, input, "weight", weight)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def reduce(losses: Tensor, reduction: int) -> Tensor:
    """In plain PyTorch."""
    return losses if reduction == 0 else losses.sum() if reduction == 1 else losses.mean()


def call_backward(op: Any, *args: Any) -> Tensor:
    """Call a backward operator, below autograd where no second derivative can be asked for."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss with a derivative in its first two arguments.

    Args:
        name: Of the public function.
        forward: The operator: tensors first, then other arguments.
        with_gradient: The same arguments to the loss, a sum or mean, and its gradient in the first tensor.
        backward: The gradient in one tensor: ``backward(position, grad, *arguments)``.
        tensors: How many of the arguments are tensors; the last may be None.
        reduction: Position of the reduction's number among the arguments.
    """

    name: str
    forward: Any
    with_gradient: Any
    backward: Callable[..., Tensor]
    tensors: int
    reduction: int

    def __call__(self, *args: Any) -> Tensor:
        if is_traced():
            return self.forward(*args)
        if torch.is_grad_enabled() and (args[0].requires_grad or args[1].requires_grad):
            return _Eager.apply(self, *args)
        with torch._C._AutoDispatchBelowAutograd():
            return self.forward(*args)

    def register_autograd(self) -> None:
        """For whatever traces the operator."""

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs[: self.tensors])
            ctx.options = inputs[self.tensors :]

        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            return self.gradients(ctx.needs_input_grad, grad, ctx)

        torch.library.register_autograd(self.forward.name(), backward, setup_context=setup)

    def gradients(self, needed: tuple[bool, ...], grad: Tensor, ctx: Any) -> tuple[Tensor | None, ...]:
        args = (*ctx.saved_tensors, *ctx.options)
        first, second = (self.backward(i, grad, *args) if needed[i] else None for i in range(2))
        return first, second, *(None for _ in args[2:])


class _Eager(torch.autograd.Function):
    """An operator's own autograd, at half the latency of the registered one: for calls that nothing traces."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, *args: Any) -> Tensor:
        ctx.loss, ctx.options, ctx.gradient = loss, args[loss.tensors :], None
        ctx.save_for_backward(*args[: loss.tensors])
        with torch._C._AutoDispatchBelowAutograd():
            if args[loss.reduction] == REDUCTIONS["none"] or not (ctx.needs_input_grad[1] and args[0].is_cpu):
                return loss.forward(*args)
            result, ctx.gradient = loss.with_gradient(*args)
            ctx.dtype = args[0].dtype
            return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient is the caller's once handed out: a second pass through a retained graph computes it anew, to the
        # same bits, as does one that is to be differentiated.
        loss, (_, *needed) = ctx.loss, ctx.needs_input_grad
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or torch.is_grad_enabled() or type(grad) is not Tensor or not grad.is_cpu or is_traced():
            return None, *loss.gradients(needed, grad, ctx)
        if grad.item() != 1:
            if gradient.dtype in HALF:  # rounded once already
                return None, *loss.gradients(needed, grad, ctx)
            gradient.mul_(grad)
        if gradient.dtype is not ctx.dtype:
            gradient = gradient.to(ctx.dtype)
        second = loss.backward(1, grad, *ctx.saved_tensors, *ctx.options) if needed[1] else None
        return None, gradient, second, *[None] * (len(needed) - 2)


def define(
    name: str,
    check: Callable[..., None],
    plain: Callable[..., Tensor],
    *,
    tensors: int,
    backward: Callable[..., Tensor] | None = None,
    position: Callable[..., int] = lambda *options: 0,
) -> Loss:
    """The loss of elements ``name(*tensors, *options, reduction, wide)``, with what traces need to know of it.

    Args:
        name: Of the operator; ``<name>_with_gradient`` and ``<name>_backward`` are there, too.
        check: What the host function checks: ``check(op, *tensors, *options, reduction)``.
        plain: The loss in plain PyTorch, of the same arguments without the name.
        tensors: How many of the arguments are tensors.
        backward: As of :class:`Loss`; by default that of a loss symmetric in its first two tensors.
        position: As of :func:`register_second_derivative`.
    """
    operators = torch.ops.detops
    forward = getattr(operators, name).default
    checked = len(forward._schema.arguments) - 1  # but for `wide`
    input_name = forward._schema.arguments[0].name

    def fake(*args: Any) -> Tensor:
        check(name, *args[:checked])
        dtype = torch.float32 if args[-1] and args[0].dtype in HALF else args[0].dtype
        return _dense_like(args[0], dtype) if args[-2] == 0 else args[0].new_empty((), dtype=dtype)

    def fake_with_gradient(*args: Any) -> tuple[Tensor, Tensor]:
        check_reduction(name, args[-2], least=1)
        return fake(*args), _dense_like(args[0], args[0].dtype)

    def fake_backward(grad: Tensor, *args: Any) -> Tensor:
        op = f"{name}_backward"
        check(op, *args[:checked])
        _checks.check_floating(op, "grad", grad)
        _checks.check_same_device(op, input_name, args[0], "grad", grad)
        if args[checked - 1] == REDUCTIONS["none"]:
            check_same_shape(op, input_name, args[0], "grad", grad)
        else:
            _checks.check_shape(op, "grad", grad, ())
        return _dense_like(args[0], args[0].dtype)

    def symmetric_backward(position: int, grad: Tensor, first: Tensor, second: Tensor, *others: Any) -> Tensor:
        pair = (first, second) if position == 0 else (second, first)
        return call_backward(getattr(operators, f"{name}_backward").default, grad, *pair, *others[:-1])

    torch.library.register_fake(f"detops::{name}", fake)
    torch.library.register_fake(f"detops::{name}_with_gradient", fake_with_gradient)
    torch.library.register_fake(f"detops::{name}_backward", fake_backward)
    with_gradient = getattr(operators, f"{name}_with_gradient").default
    loss = Loss(name, forward, with_gradient, backward or symmetric_backward, tensors, checked - 1)
    loss.register_autograd()
    register_second_derivative(f"detops::{name}_backward", plain, tensors, position)
    return loss


def _dense_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without gaps whose axes lie in memory in the order that those of the given one do."""
    strides, step = [0] * tensor.dim(), 1
    steps = tensor.stride()
    for axis in sorted(range(tensor.dim()), key=lambda axis: -steps[axis])[::-1]:
        strides[axis] = step
        step = step * max(tensor.shape[axis], 1)
    return tensor.new_empty_strided(tensor.shape, strides, dtype=dtype)


def register_second_derivative(
    backward: str, plain: Callable[..., Tensor], tensors: int, position: Callable[..., int] = lambda *options: 0
) -> None:
    """Make a backward operator ``(grad, *tensors, *options)`` differentiable in ``grad`` and the first two tensors.

    Second derivatives are rare: ``plain``, the loss of the arguments after ``grad`` in plain PyTorch, gives them.
    ``position(*options)`` is that of the tensor whose gradient the operator computes.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[: 1 + tensors])
        ctx.options = inputs[1 + tensors :]

    def double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_of_loss, first, second, *others = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (grad_of_loss, first, second)]
            loss = plain(*leaves[1:], *others, *ctx.options)
            wanted = leaves[1 + position(*ctx.options)]
            (gradient,) = torch.autograd.grad(loss, wanted, leaves[0].to(loss.dtype), create_graph=True)
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(gradient, inputs, grad.to(gradient.dtype), allow_unused=True))
        return *(next(found) if leaf.requires_grad else None for leaf in leaves), *(
            None for _ in (*others, *ctx.options)
        )

    torch.library.register_autograd(backward, double_backward, setup_context=setup)
