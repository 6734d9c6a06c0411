"""The operators together, as a detector's second stage uses them: compiled into one graph, and exported."""

import pytest
import torch
from torch import Tensor

from detops.ops import (
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    match_boxes,
    nms,
    nms_padded,
    roi_align,
    smooth_l1_loss,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def place(request: pytest.FixtureRequest) -> str:
    return request.param


def inputs(n: int = 200, place: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    corners = torch.rand(n, 2) * 100
    boxes = torch.cat([corners, corners + 4 + torch.rand(n, 2) * 60], dim=1)
    features, scores, labels = torch.randn(1, 8, 32, 40), torch.rand(n), torch.randint(3, (n,))
    return features.to(place), boxes.to(place), scores.to(place), labels.to(place)


def pool_kept(features: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """As many regions as NMS keeps: a size that depends on the data."""
    boxes = clip_boxes_to_image(boxes, (128, 160))
    boxes = boxes[batched_nms(boxes, scores, labels, 0.5)]
    rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
    return roi_align(features, rois, 7, 0.25, 2)


def pool_padded(features: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same with a fixed number of regions; those beyond the count repeat the first box."""
    keep, count = nms_padded(boxes, scores, 0.5, 50, labels, score_threshold=0.1)
    chosen = boxes[keep.clamp(min=0)]
    rois = torch.cat([chosen.new_zeros(50, 1), chosen], dim=1)
    return roi_align(features, rois, 7, 0.25, 2), count


def loss(features: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Matching, pooling and the box loss, with a gradient to the features."""
    objects = boxes[:5] + 1
    matches, _ = match_boxes(objects, boxes, 0.5, 0.5, allow_low_quality_matches=True)
    pooled = roi_align(features, [boxes], 7, 0.25, 2).mean(dim=(2, 3))[:, :4]
    target = objects[matches.clamp(min=0)] / 100
    return smooth_l1_loss(pooled, target, weight=(matches >= 0).float().unsqueeze(1)) + box_iou(objects, boxes).mean()


@pytest.mark.slow
@pytest.mark.parametrize("function", [pool_kept, pool_padded], ids=["data-dependent", "padded"])
def test_inductor(function, place: str) -> None:
    arguments = inputs(place=place)
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(*arguments), function(*arguments))


def test_gradient_through_one_graph(place: str) -> None:
    features, *rest = inputs(40, place)
    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = features.clone().requires_grad_()
        grads.append(torch.autograd.grad(function(leaf, *rest), leaf)[0])
    torch.testing.assert_close(*grads)
    assert grads[0].abs().sum() > 0


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_compiled_nms_keeps_few(kept: int, place: str) -> None:
    """torchvision's, compiled, fails with `u0 >= 2` where it keeps fewer than two boxes."""
    compiled = torch.compile(lambda b, s: nms(b, s, 0.5), fullgraph=True, dynamic=True, backend="aot_eager")
    boxes = torch.tensor([[0.0, 0, 4, 4], [50, 50, 60, 60]], device=place)[:kept]
    assert compiled(boxes, torch.rand(kept, device=place)).shape == (kept,)


def test_export() -> None:
    class Module(torch.nn.Module):
        def forward(self, features: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return pool_padded(features, boxes, scores, labels)

    n = torch.export.Dim("n", min=2, max=10_000)
    shapes = ({}, {0: n}, {0: n}, {0: n})
    program = torch.export.export(Module(), inputs(), dynamic_shapes=shapes)
    for size in (60, 300):
        arguments = inputs(size)
        torch.testing.assert_close(program.module()(*arguments), pool_padded(*arguments))
