"""What only a GPU can show: every operator on it, on any stream, in a CUDA graph, compiled for it.

The first test is small on purpose: tests/gpu_check.sh runs it under compute-sanitizer.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from emulation.build import operators as kernels
from torch import Tensor

from detops import ops

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BOXES = torch.tensor(
    [[0, 0, 10, 10], [1, 1, 11, 11], [20, 5, 33.5, 40], [2, 2, 2, 9], [30, 30, 60, 44], [21, 6, 34, 41]]
)
SCORES = torch.tensor([0.5, 0.9, 0.3, 0.8, 0.7, 0.3])
ROIS = torch.cat([torch.tensor([0.0, 1, 1, 0, 1, 0]).unsqueeze(1), BOXES], dim=1)


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(2, 5, 12, 16, generator=generator),
        "targets": torch.randn(6, 4, generator=generator),
    }


# By file of csrc/ops: small calls of its operators on (features, boxes, scores, rois, targets); all differentiable
# inputs get a gradient.
Call = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Any]
CALLS: dict[str, list[Call]] = {
    "box_iou": [
        lambda f, b, s, r, t: ops.box_iou(b, b[:4]),
        lambda f, b, s, r, t: ops.generalized_box_iou(b, b[:4]),
        lambda f, b, s, r, t: ops.distance_box_iou(b, b[:4]),
        lambda f, b, s, r, t: ops.complete_box_iou(b, b[:4]),
    ],
    "match_boxes": [lambda f, b, s, r, t: ops.match_boxes(b[:3].detach() + 1, b.detach(), 0.7, 0.3, True)],
    "nms": [
        lambda f, b, s, r, t: ops.nms(b.detach(), s.detach(), 0.5),
        lambda f, b, s, r, t: ops.batched_nms(
            b.detach(), s.detach(), torch.tensor([0, 0, 1, 0, 1, 1]).to(b.device), 0.5
        ),
        lambda f, b, s, r, t: ops.nms_padded(b.detach(), s.detach(), 0.5, 8, score_threshold=0.4),
    ],
    "smooth_l1_loss": [
        lambda f, b, s, r, t: ops.smooth_l1_loss(b, t, beta=0.5),
        lambda f, b, s, r, t: ops.smooth_l1_loss(b, t, reduction="none", weight=s.unsqueeze(1)),
    ],
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def results(call: Call, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The outputs of a call and the gradients of what has one, on the CPU."""
    given = inputs()
    leaves = [given["features"], BOXES, SCORES, ROIS, given["targets"]]
    leaves = [leaf.to(device, dtype).requires_grad_() for leaf in leaves]
    returned = call(*leaves)
    outputs = [returned] if isinstance(returned, Tensor) else list(returned)
    smooth = [output for output in outputs if output.requires_grad]
    grads = torch.autograd.grad([output.sum() for output in smooth], leaves, allow_unused=True) if smooth else ()
    return [t.detach().cpu() for t in (*outputs, *(grad for grad in grads if grad is not None))]


def test_every_kernel_has_a_small_call() -> None:
    assert sorted(CALLS) == kernels()


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_small_calls_agree_with_the_cpu(name: str, dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for call in CALLS[name]:
        actual, expected = results(call, "cuda", dtype), results(call, "cpu", dtype)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@needs_gpu
@pytest.mark.parametrize("name", CALLS)
def test_works_on_any_stream(name: str) -> None:
    for call in CALLS[name]:
        expected = results(call, "cuda", torch.float32)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(10_000_000)  # the default stream would be long done
            actual = results(call, "cuda", torch.float32)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", CALLS)
def test_works_on_a_device_that_is_not_current(name: str) -> None:
    for call in CALLS[name]:
        torch.testing.assert_close(results(call, "cuda:1", torch.float32), results(call, "cuda:0", torch.float32))


@needs_gpu
@pytest.mark.parametrize("name", CALLS)
def test_same_bits_from_run_to_run(name: str) -> None:
    for call in CALLS[name]:
        first, second = (results(call, "cuda", torch.float32) for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
