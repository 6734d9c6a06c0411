"""Deformable convolution, both versions, against torchvision's: a ResNet stage, other layers, a tiny one."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

import detops

from . import workloads
from .common import TOLERANCES, Case


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """Yields forward, then forward and backward, of each layer; offsets of a few pixels, as they are learned."""
    for backward in (False, True):
        for masked in (True, False):
            version = "v2" if masked else "v1"
            yield case(f"{version} 2x64x56x56", (2, 64, 56, 56), 64, masked, backward, device, dtype)
        yield case(
            "v2 2x64x56x56, channels_last", (2, 64, 56, 56), 64, True, backward, device, dtype, channels_last=True
        )
        yield case("v2 1x256x50x76", (1, 256, 50, 76), 256, True, backward, device, dtype)
        yield case("v2 2x512x14x14", (2, 512, 14, 14), 512, True, backward, device, dtype)
        yield case(
            "v2 1x64x56x56, 4 offset groups", (1, 64, 56, 56), 64, True, backward, device, dtype, offset_groups=4
        )
        yield case("v2 1x64x56x56, depthwise", (1, 64, 56, 56), 64, True, backward, device, dtype, groups=64)
        yield case("v2 1x16x28x28", (1, 16, 28, 28), 16, True, backward, device, dtype, quick=True)
        yield case("v1 1x4x7x7", (1, 4, 7, 7), 4, False, backward, device, dtype)


def case(
    name: str,
    size: tuple[int, int, int, int],
    outputs: int,
    masked: bool,
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    groups: int = 1,
    offset_groups: int = 1,
    channels_last: bool = False,
    quick: bool = False,
) -> Case:
    """A layer of 3 x 3 kernels with padding; backward gives all gradients."""
    random = workloads.generator(0)
    n, c, h, w = size

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        values = (scale * torch.randn(shape, generator=random)).to(device, dtype)
        return values.requires_grad_(backward)

    maps = tensor(*size)
    if channels_last:
        maps = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    offset = tensor(n, 18 * offset_groups, h, w, scale=2)
    weight, bias = tensor(outputs, c // groups, 3, 3, scale=(9 * c // groups) ** -0.5), tensor(outputs)
    mask = tensor(n, 9 * offset_groups, h, w) if masked else None
    wanted = [t for t in (maps, offset, weight, bias, mask) if t is not None]
    grad = torch.randn(n, outputs, h, w, generator=random).to(device, dtype)

    def call(op: Callable[..., Tensor]) -> Callable[[], Any]:
        def run() -> Any:
            output = op(maps, offset, weight, bias, padding=1, mask=mask)
            return torch.autograd.grad(output, wanted, grad) if backward else output

        return run

    run = {"detops": call(detops.ops.deform_conv2d)}
    note = ""
    if dtype in (torch.float32, torch.float64) or device.type == "cuda":
        run["torchvision"] = call(torchvision.ops.deform_conv2d)
    else:
        note = "torchvision has no half precision on the CPU"
    least = sum(t.nbytes for t in wanted) * (2 if backward else 1) + grad.nbytes
    direction = "forward and backward" if backward else "forward"
    return Case("deform_conv2d", f"{name}, {direction}", run, least, check=agree_to_scale, quick=quick, note=note)


def agree_to_scale(actual: Any, expected: Any) -> None:
    """Sums over many samples may nearly cancel: errors are relative to the largest."""
    if isinstance(expected, Tensor):
        actual, expected = (actual,), (expected,)
    for ours, theirs in zip(actual, expected, strict=True):
        rtol, _ = TOLERANCES[theirs.dtype]
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * theirs.abs().max().item())
