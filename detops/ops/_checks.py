"""What the host functions check, for fake kernels: a traced program never reaches them, and says the same."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def fail(op: str, message: str) -> NoReturn:
    raise RuntimeError(f"{op}: {message}")


def check_shape(op: str, name: str, tensor: Tensor, expected: Sequence[int | None]) -> None:
    """Raise unless the tensor has the expected sizes; None matches any size."""
    if len(tensor.shape) == len(expected) and all(
        want is None or size == want for size, want in zip(tensor.shape, expected, strict=True)
    ):
        return
    wanted = ", ".join("*" if size is None else str(size) for size in expected)
    fail(op, f"expected {name} of shape ({wanted}), got ({', '.join(map(str, tensor.shape))})")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        fail(op, f"expected {name} of dtype float32, float64, float16 or bfloat16, got {dtype_name(tensor)}")


def check_real(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING + INTEGER:
        fail(op, f"expected {name} of a floating or integer dtype, got {dtype_name(tensor)}")


def check_same_device(op: str, a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    if a.device != b.device:
        fail(op, f"expected {b_name} on the device of {a_name}, {a.device}, got {b.device}")


def check_same_dtype(op: str, a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    if a.dtype != b.dtype:
        fail(op, f"expected {b_name} of the dtype of {a_name}, {dtype_name(a)}, got {dtype_name(b)}")


def shape_of(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def refuse_second_derivative(name: str, *backward: str) -> None:
    """An error for those who differentiate the backward operators."""

    def refuse(ctx: Any, *grads: Tensor) -> NoReturn:
        fail(name, "expected to be differentiated once, got a second derivative")

    for op in backward:
        torch.library.register_autograd(f"detops::{op}", refuse)
