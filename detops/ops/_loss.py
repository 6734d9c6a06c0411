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
        forward: The operator: tensors first, then other arguments.
        with_gradient: The same arguments to the loss, a sum or mean, and its gradient in the first tensor.
        backward: The gradient in one tensor: ``backward(position, grad, *arguments)``.
        tensors: How many of the arguments are tensors; the last may be None.
        reduction: Position of the reduction's number among the arguments.
    """

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
        first = ctx.saved_tensors[0]
        if gradient.dtype is not first.dtype:
            gradient = gradient.to(first.dtype)
        _, second, *others = loss.gradients((False, *needed[1:]), grad, ctx)
        return None, gradient, second, *others


def register_second_derivative(backward: str, plain: Callable[..., Tensor], tensors: int) -> None:
    """Make a backward operator ``(grad, *tensors, *others)`` differentiable in ``grad`` and the first two tensors.

    Second derivatives are rare: ``plain``, the loss of the arguments after ``grad`` in plain PyTorch, gives them.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[: 1 + tensors])
        ctx.options = inputs[1 + tensors :]

    def double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_of_loss, first, second, *others = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (grad_of_loss, first, second)]
            loss = plain(*leaves[1:], *others, *ctx.options)
            (gradient,) = torch.autograd.grad(loss, leaves[1], leaves[0].to(loss.dtype), create_graph=True)
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(gradient, inputs, grad.to(gradient.dtype), allow_unused=True))
        return *(next(found) if leaf.requires_grad else None for leaf in leaves), *(None for _ in (*others, *ctx.options))

    torch.library.register_autograd(backward, double_backward, setup_context=setup)
