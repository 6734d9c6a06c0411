"""mmcv.ops itself, of mmcv-lite, on detops: forward and through its own autograd functions."""

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from samples import gradients, rois_over
from torch import Tensor
from torch.testing import assert_close

import detops
from detops.compat import mmcv as compat
from detops.compat.mmcv import _ext

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # of packages from before this torch
    pytest.mark.skipif(importlib.util.find_spec("mmcv") is None, reason="needs mmcv-lite: pip install '.[peers]'"),
]


@pytest.fixture(scope="module")
def mmcv_ops() -> Any:
    assert compat.install()
    import mmcv.ops

    return mmcv.ops


def assert_same(found: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Results, and gradients in all inputs."""
    result = expected(*inputs)
    assert_close(found(*inputs), result)
    grad = torch.randn_like(result)
    assert_close(gradients(found, list(inputs), grad), gradients(expected, list(inputs), grad))


def test_arguments_are_those_that_mmcv_binds(mmcv_ops: Any) -> None:
    source = (Path(mmcv_ops.__file__).parent / "csrc" / "pytorch" / "pybind.cpp").read_text()
    bound = {
        re.match(r'"(\w+)"', call)[1]: re.findall(r'py::arg\("(\w+)"\)', call.split(");")[0])
        for call in source.split("m.def(")[1:]
    }
    bound["roi_align_rotated_backward"][:3] = ["top_grad", "rois", "bottom_grad"]  # its order, not the names, is in use
    ours = {name: item for name, item in vars(_ext).items() if inspect.isfunction(item) and name[0] != "_"}
    assert len(ours) > 40
    for name, function in ours.items():
        assert list(inspect.signature(function).parameters) == bound[name], name


def test_what_is_missing_says_so_when_called(mmcv_ops: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"mmcv\._ext\.psamask_forward"):
        mmcv_ops.PSAMask("collect", (3, 3))(torch.rand(1, 9, 4, 4))


def test_nms(mmcv_ops: Any) -> None:
    corner = torch.rand(200, 2) * 40
    boxes, scores = torch.cat([corner, corner + torch.rand(200, 2) * 30], dim=1), torch.rand(200)
    labels = torch.randint(3, (200,))
    dets, keep = mmcv_ops.nms(boxes, scores, 0.5, score_threshold=0.1, max_num=40)
    expected = torchvision.ops.nms(boxes[scores > 0.1], scores[scores > 0.1], 0.5)[:40]
    assert torch.equal(keep, (scores > 0.1).nonzero()[:, 0][expected])
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[keep])
    _, keep = mmcv_ops.batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5})
    assert torch.equal(keep, torchvision.ops.batched_nms(boxes, scores, labels, 0.5))
    dets, keep = mmcv_ops.soft_nms(boxes, scores, 0.3, method="gaussian")
    expected_dets, expected = detops.ops.soft_nms(boxes, scores, 0.3, method="gaussian")
    assert torch.equal(keep, expected) and torch.equal(dets, expected_dets)
    groups = mmcv_ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.5)
    assert [group[0].item() for group in groups] == torchvision.ops.nms(boxes, scores, 0.5).tolist()
    assert sorted(torch.cat(groups).tolist()) == list(range(200))


def test_rotated_boxes(mmcv_ops: Any) -> None:
    dets = torch.rand(50, 5) * torch.tensor([40, 40, 20, 20, 6])
    scores, labels = torch.rand(50), torch.randint(2, (50,))
    for clockwise in (True, False):
        found = mmcv_ops.box_iou_rotated(dets, dets[:20], mode="iof", clockwise=clockwise)
        assert_close(found, detops.ops.box_iou_rotated(dets, dets[:20], mode="iof", clockwise=clockwise))
        for chosen in (None, labels):
            found = mmcv_ops.nms_rotated(dets, scores, 0.3, chosen, clockwise)
            assert_close(found, detops.ops.nms_rotated(dets, scores, 0.3, chosen, clockwise))


def test_regions(mmcv_ops: Any) -> None:
    maps, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), rois_over(8, 9)
    assert_same(
        lambda maps: mmcv_ops.roi_align(maps, rois, 3, 0.5, 2, "avg", True),
        lambda maps: torchvision.ops.roi_align(maps, rois, 3, 0.5, 2, True),
        maps,
    )
    turned = torch.cat([rois[:3, :1], rois[:3, 1:].abs() + 2, torch.rand(3, 1).double()], dim=1)
    assert_same(
        lambda maps: mmcv_ops.roi_align_rotated(maps, turned, 3, 0.5, 2, True, False),
        lambda maps: detops.ops.roi_align_rotated(maps, turned, 3, 0.5, 2, True, False),
        maps,
    )
    single = maps.float()
    found = mmcv_ops.prroi_pool(single, rois.float(), (3, 3), 0.5)
    assert_close(found, detops.ops.prroi_pool(single, rois.float(), 3, 0.5))
    pooled = mmcv_ops.roi_pool(maps, rois, 3, 0.5)
    largest = mmcv_ops.roi_align(maps, rois, 3, 0.5, 2, "max", True)
    moved = mmcv_ops.deform_roi_pool(maps, rois, torch.zeros(5, 2, 3, 3).double(), 3, 0.5, 2)
    assert (largest <= pooled.amax((2, 3), keepdim=True) + 1e-12)[:3].all()
    assert_close(moved, torchvision.ops.roi_align(maps, rois, 3, 0.5, 2, True))


@pytest.mark.parametrize("batch", [2, 64])  # 64: two steps of im2col
def test_deformable_convolution(mmcv_ops: Any, batch: int) -> None:
    maps, weight = torch.randn(batch, 4, 5, 6, dtype=torch.float64), torch.randn(6, 2, 3, 3, dtype=torch.float64)
    offset, mask = torch.randn(batch, 36, 3, 6, dtype=torch.float64), torch.rand(batch, 18, 3, 6, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    assert_same(
        lambda maps, offset, weight: mmcv_ops.deform_conv2d(maps, offset, weight, (2, 1), 1, 1, 2, 2),
        lambda maps, offset, weight: torchvision.ops.deform_conv2d(maps, offset, weight, None, (2, 1), 1, 1),
        *(maps, offset, weight),
    )
    assert_same(
        lambda *tensors: mmcv_ops.modulated_deform_conv2d(*tensors, (2, 1), 1, 1, 2, 2),
        lambda maps, offset, mask, weight, bias: torchvision.ops.deform_conv2d(
            maps, offset, weight, bias, (2, 1), 1, 1, mask
        ),
        *(maps, offset, mask, weight, bias),
    )


def test_focal_losses(mmcv_ops: Any) -> None:
    logits, labels = torch.randn(7, 4, dtype=torch.float64) * 3, torch.tensor([0, 4, 2, 3, 4, 1, 1])
    dense = (labels[:, None] == torch.arange(4)).double()
    assert_same(
        lambda logits: mmcv_ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "mean"),
        lambda logits: torchvision.ops.sigmoid_focal_loss(logits, dense, 0.25, 2.0, "sum") / 7,
        logits,
    )

    def softmax_focal(logits: Tensor) -> Tensor:
        p = logits.softmax(1)[torch.arange(7), labels.clamp(max=3)]
        return (-0.25 * (1 - p) ** 2 * p.log()).sum()

    assert_same(
        lambda logits: mmcv_ops.softmax_focal_loss(logits, labels.clamp(max=3), 2.0, 0.25, None, "sum"),
        softmax_focal,
        logits,
    )


def test_attention(mmcv_ops: Any) -> None:
    from mmcv.ops import multi_scale_deform_attn as module

    sizes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    inputs = (torch.randn(2, 26, 2, 3), torch.rand(2, 4, 2, 2, 3, 2), torch.rand(2, 4, 2, 2, 3))
    assert_same(
        lambda value, places, weights: module.MultiScaleDeformableAttnFunction.apply(
            value, sizes, starts, places, weights, 64
        ),
        lambda value, places, weights: module.multi_scale_deformable_attn_pytorch(value, sizes, places, weights),
        *(tensor.double() for tensor in inputs),
    )


def test_mixed_precision(mmcv_ops: Any) -> None:
    from mmcv.ops import multi_scale_deform_attn as module

    def attend(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        sizes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
        return module.MultiScaleDeformableAttnFunction.apply(value, sizes, starts, places, weights, 64)

    maps, rois = torch.randn(2, 8, 8, 9).bfloat16(), rois_over(8, 9).bfloat16()
    offset, mask, weight = torch.randn(2, 18, 8, 9), torch.rand(2, 9, 8, 9), torch.randn(4, 8, 3, 3)
    calls: dict[Callable[..., Tensor], tuple[Tensor, ...]] = {
        attend: (torch.randn(2, 26, 2, 3), torch.rand(2, 4, 2, 2, 3, 2), torch.rand(2, 4, 2, 2, 3)),
        lambda maps: mmcv_ops.roi_align(maps, rois.to(maps.dtype), 3, 0.5, 2, "avg", True): (maps,),
        lambda maps: mmcv_ops.roi_pool(maps, rois.to(maps.dtype), 3, 0.5): (maps,),
        lambda maps: mmcv_ops.deform_roi_pool(maps, rois.to(maps.dtype), None, 3, 0.5, 2): (maps,),
        lambda maps, masks: mmcv_ops.carafe(maps, masks, 3, 2, 2): (maps, torch.rand(2, 18, 16, 18)),
        lambda *tensors: mmcv_ops.modulated_deform_conv2d(*tensors, None, 1, 1): (maps, offset, mask, weight),
        lambda logits: mmcv_ops.sigmoid_focal_loss(logits, torch.tensor([2, 0, 1, 2])): (torch.randn(4, 2),),
    }
    for call, inputs in calls.items():
        coarse = [tensor.bfloat16() for tensor in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            leaves = [tensor.clone().requires_grad_() for tensor in coarse]
            result = call(*leaves)
        exact = call(*(tensor.float() for tensor in coarse))
        assert_close(result.float(), exact, rtol=0.02, atol=0.02 * exact.abs().max().item())
        found = torch.autograd.grad(result, leaves, torch.ones_like(result))
        expected = gradients(call, [tensor.float() for tensor in coarse], torch.ones_like(exact))
        for gradient, wanted in zip(found, expected, strict=True):
            assert_close(gradient.float(), wanted, rtol=0.02, atol=0.05 * wanted.abs().max().item())


def test_masked_convolution(mmcv_ops: Any) -> None:
    layer, mask = mmcv_ops.MaskedConv2d(3, 4, 3, padding=1), torch.rand(1, 6, 7) > 0.5
    features = torch.randn(1, 3, 6, 7)
    with torch.no_grad():
        assert_close(layer(features, mask), layer(features) * mask)
