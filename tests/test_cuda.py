"""What only a GPU can show: every operator on it, on any stream, in a CUDA graph, compiled for it.

The first test is small on purpose: tests/gpu_check.sh runs it under compute-sanitizer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from emulation.build import operators as kernels
from torch import Tensor

from detops import ops

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Inputs(NamedTuple):
    """Six boxes on two small maps; all that is floating gets a gradient where the operator has one."""

    features: Tensor  # (2, 8, 12, 16)
    boxes: Tensor  # (6, 4)
    rotated: Tensor  # (6, 5)
    scores: Tensor  # (6,)
    images: Tensor  # (6, 1)
    targets: Tensor  # (6, 4), in 0 to 1
    classes: Tensor  # (6,)

    @property
    def rois(self) -> Tensor:
        return torch.cat([self.images, self.boxes], dim=1).detach()


def inputs(device: str, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [20, 5, 33.5, 40], [2, 2, 2, 9], [30, 30, 60, 44], [21, 6, 34, 41]]
    rotated = [
        [5, 5, 10, 8, 0.5],
        [6, 5, 10, 8, 0.5],
        [30, 20, 9, 30, 1],
        [2, 2, 0, 9, 0],
        [7, 6, 3, 3, -2],
        [9, 9, 4, 2, 0],
    ]
    leaves = [
        torch.randn(2, 8, 12, 16, generator=generator),
        torch.tensor(boxes),
        torch.tensor(rotated),
        torch.tensor([0.5, 0.9, 0.3, 0.8, 0.7, 0.25]),
        torch.tensor([[0.0], [1], [1], [0], [1], [0]]),
        torch.rand(6, 4, generator=generator),
    ]
    return Inputs(
        *(leaf.to(device, dtype).requires_grad_() for leaf in leaves), torch.tensor([0, 0, 1, 0, 1, 1], device=device)
    )


# Small calls of every operator, by the file of csrc/ops that has its kernels.
Call = Callable[[Inputs], Any]
CALLS: dict[str, list[Call]] = {
    "anchor_grid": [lambda i: ops.anchor_grid([i.boxes[:2], i.boxes[2:]], [(3, 4), (2, 2)], [8, (16, 12)])],
    "balanced_l1_loss": [lambda i: ops.balanced_l1_loss(i.boxes, i.targets)],
    "box_iou": [
        lambda i: ops.box_iou(i.boxes, i.boxes[:4]),
        lambda i: ops.generalized_box_iou(i.boxes, i.boxes[:4]),
        lambda i: ops.distance_box_iou(i.boxes, i.boxes[:4]),
        lambda i: ops.complete_box_iou(i.boxes, i.boxes[:4]),
    ],
    "box_iou_loss": [
        lambda i: ops.generalized_box_iou_loss(i.boxes, i.boxes.flip(0).detach()),
        lambda i: ops.distance_box_iou_loss(i.boxes, i.boxes.flip(0).detach(), "sum"),
        lambda i: ops.complete_box_iou_loss(i.boxes, i.boxes.flip(0).detach(), "mean"),
    ],
    "box_iou_rotated": [lambda i: ops.box_iou_rotated(i.rotated.detach(), i.rotated[:4].detach())],
    "decode_boxes": [
        lambda i: ops.encode_boxes(i.boxes[[0, 1, 2, 4]], i.boxes[[1, 0, 5, 2]].detach()),
        lambda i: ops.decode_boxes(i.targets, i.boxes.detach(), image_size=(30, 40)),
    ],
    "deform_conv2d": [
        lambda i: ops.deform_conv2d(
            i.features, i.features.tile(1, 3, 1, 1)[:, :18], i.features[:, :, :3, :3], padding=1
        )
    ],
    "masks_to_boxes": [lambda i: ops.masks_to_boxes(i.features[0].detach() > 1)],
    "match_boxes": [lambda i: ops.match_boxes(i.boxes[:3].detach() + 1, i.boxes.detach(), 0.7, 0.3, True)],
    "multi_scale_roi_align": [
        lambda i: ops.multi_scale_roi_align([i.features, i.features[:, :, ::2, 1::2]], i.rois, 3, (0.5, 0.25), 2, 16, 2)
    ],
    "nms": [
        lambda i: ops.nms(i.boxes.detach(), i.scores.detach(), 0.5),
        lambda i: ops.batched_nms(i.boxes.detach(), i.scores.detach(), i.classes, 0.5),
        lambda i: ops.nms_padded(i.boxes.detach(), i.scores.detach(), 0.5, 8, score_threshold=0.4),
    ],
    "nms_rotated": [lambda i: ops.nms_rotated_padded(i.rotated.detach(), i.scores.detach(), 0.5, 8, i.classes)],
    "prroi_pool": [lambda i: ops.prroi_pool(i.features, torch.cat([i.images, i.boxes], dim=1), 3, 0.25)],
    "ps_roi_align": [lambda i: ops.ps_roi_align(i.features, i.rois, 2, 0.25, 2)],
    "ps_roi_pool": [lambda i: ops.ps_roi_pool(i.features, i.rois, 2, 0.25)],
    "remove_small_boxes": [lambda i: ops.remove_small_boxes(i.boxes.detach(), 9.0)],
    "roi_align": [
        lambda i: ops.roi_align(i.features, i.rois, 3, 0.25, 2),
        lambda i: ops.roi_align(i.features, i.rois, 3, 0.25),
    ],
    "roi_align_rotated": [
        lambda i: ops.roi_align_rotated(i.features, torch.cat([i.images, i.rotated], 1).detach(), 3, 0.25, 2)
    ],
    "roi_pool": [lambda i: ops.roi_pool(i.features, i.rois, 3, 0.25)],
    "sigmoid_focal_loss": [lambda i: ops.sigmoid_focal_loss(i.boxes / 40, i.targets.detach(), reduction="mean")],
    "sigmoid_focal_loss_from_labels": [lambda i: ops.sigmoid_focal_loss_from_labels(i.boxes / 40, i.classes)],
    "smooth_l1_loss": [
        lambda i: ops.smooth_l1_loss(i.boxes, i.targets, beta=0.5),
        lambda i: ops.smooth_l1_loss(i.boxes, i.targets, reduction="none", weight=i.scores.unsqueeze(1)),
    ],
    "soft_nms": [lambda i: ops.soft_nms_padded(i.boxes.detach(), i.scores.detach(), 8)],
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def results(call: Call, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The outputs of a call and the gradients of what has one, on the CPU."""
    given = inputs(device, dtype)
    returned = call(given)
    outputs = [returned] if isinstance(returned, Tensor) else list(returned)
    smooth = [output for output in outputs if output.requires_grad]
    grads = torch.autograd.grad([output.sum() for output in smooth], given[:-1], allow_unused=True) if smooth else ()
    return [t.detach().cpu() for t in (*outputs, *(grad for grad in grads if grad is not None))]


def test_every_kernel_has_a_small_call() -> None:
    assert sorted(CALLS) == kernels()


@pytest.mark.parametrize("name", CALLS)
def test_small_calls_run(name: str) -> None:
    for call in CALLS[name]:
        assert all(result.numel() > 0 for result in results(call, "cpu", torch.float32))


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
