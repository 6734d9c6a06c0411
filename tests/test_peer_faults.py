"""The faults of torchvision that README lists: each is shown on torchvision and not to be one of detops.

Only with torchvision 0.29, where they were seen: a later version may have mended them.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from detops import ops

torchvision = pytest.importorskip("torchvision", reason="shows what torchvision does")
if not torchvision.__version__.startswith("0.29."):
    pytest.skip("the faults were seen on torchvision 0.29", allow_module_level=True)
peer = torchvision.ops

BOX = torch.tensor([[5.0, 5, 50, 50]])
POINT = torch.tensor([[5.0, 5, 5, 5]])
MAP = torch.rand(1, 1, 8, 8)


@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou", "complete_box_iou"])
def test_overlap_of_boxes_without_area(name: str) -> None:
    assert getattr(peer, name)(POINT, POINT).isnan().all()
    assert getattr(ops, name)(POINT, POINT).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_nms_in_half_precision_on_the_cpu(dtype: torch.dtype) -> None:
    boxes, scores = BOX.to(dtype), torch.ones(1, dtype=dtype)
    for name, classes in (("nms", ()), ("batched_nms", (torch.zeros(1, dtype=torch.int64),))):
        with pytest.raises(RuntimeError, match="not implemented"):
            getattr(peer, name)(boxes, scores, *classes, 0.5)
        assert getattr(ops, name)(boxes, scores, *classes, 0.5).tolist() == [0]


def test_class_offsets_in_half_precision() -> None:
    """What batched_nms adds to the boxes of class 79 in a picture 1,333 pixels wide, in the dtype of the boxes."""
    boxes = torch.tensor([[0, 0, 1333, 799], [10, 10, 20, 20]], dtype=torch.float16)
    classes = torch.tensor([79, 79])
    moved = boxes + (classes.to(boxes) * (boxes.max() + 1))[:, None]  # as torchvision/ops/boxes.py does
    assert moved.isinf().all()
    scores = torch.tensor([0.9, 0.8], dtype=torch.float16)
    assert ops.batched_nms(boxes, scores, classes, 0.5).tolist() == [0, 1]
    assert ops.batched_nms(boxes[[0, 0]], scores, classes, 0.5).tolist() == [0]


@pytest.mark.parametrize("name", ["roi_align", "roi_pool"])
def test_bfloat16_regions(name: str) -> None:
    rois = torch.tensor([[0, 1, 1, 4, 5]], dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="not implemented"):
        getattr(peer, name)(MAP.bfloat16(), rois, 2)
    assert getattr(ops, name)(MAP.bfloat16(), rois, 2).dtype == torch.bfloat16


def test_half_precision_regions_keep_their_place() -> None:
    features = torch.rand(1, 1, 300, 400, generator=torch.Generator().manual_seed(0)).half()
    rois = torch.tensor([[0, 301.3, 203.7, 341.9, 260.1]])
    exact = peer.roi_align(features.double(), rois.double(), 7, sampling_ratio=2)

    def error(pooled: Tensor) -> float:
        return float((pooled.double() - exact).abs().max())

    assert error(peer.roi_align(features, rois.half(), 7, sampling_ratio=2)) > 0.02
    assert error(ops.roi_align(features, rois, 7, sampling_ratio=2)) < 0.001
    with pytest.raises(RuntimeError, match="same type"):
        peer.roi_align(features, rois, 7, sampling_ratio=2)


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_region_that_is_no_number(bad: str) -> None:
    """There torchvision reads 8 GB before the map: nearly always the end of the process."""
    program = "import torch, torchvision; print(float(torchvision.ops.roi_align(" + (
        f"torch.ones(1, 1, 8, 8), torch.tensor([[0, 1, 1, float('{bad}'), 5]]), 1, 1.0, 2)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode != 0 or run.stdout.strip() not in ("0.0", "1.0")
    assert ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 1, 1, float(bad), 5]]), 1, 1.0, 2).item() == 0


def test_offset_that_is_no_number() -> None:
    """Torchvision reads far before the map."""
    program = "import torch, torchvision; offset = torch.full((1, 2, 40, 40), float('nan')); print(float(" + (
        "torchvision.ops.deform_conv2d(torch.ones(1, 1, 40, 40), offset, torch.ones(1, 1, 1, 1)).abs().sum()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode != 0 or run.stdout.strip() != "0.0"
    offset = torch.full((1, 2, 40, 40), float("nan"))
    assert (ops.deform_conv2d(torch.ones(1, 1, 40, 40), offset, torch.ones(1, 1, 1, 1)) == 0).all()


def test_gradient_of_an_infinite_offset() -> None:
    def gradient(function) -> Tensor:
        offset = torch.full((1, 2, 8, 8), float("inf")).requires_grad_()
        return torch.autograd.grad(function(MAP, offset, torch.ones(1, 1, 1, 1)).sum(), offset)[0]

    assert gradient(peer.deform_conv2d).isnan().any()
    assert (gradient(ops.deform_conv2d) == 0).all()


def test_bfloat16_deformable_convolution() -> None:
    args = (MAP.bfloat16(), torch.zeros(1, 2, 8, 8).bfloat16(), torch.ones(1, 1, 1, 1).bfloat16())
    with pytest.raises(RuntimeError, match="not implemented"):
        peer.deform_conv2d(*args)
    assert torch.equal(ops.deform_conv2d(*args), args[0])


def test_second_derivative_of_roi_align() -> None:
    def second(function) -> Tensor:
        features = MAP.double().requires_grad_()
        pooled = function(features, torch.tensor([[0, 1, 1, 4, 5]], dtype=torch.float64), 2)
        (gradient,) = torch.autograd.grad(pooled.square().sum(), features, create_graph=True)
        return torch.autograd.grad(gradient.sum(), features)[0]

    with pytest.raises(RuntimeError, match="double backwards on roi_align not supported"):
        second(peer.roi_align)
    assert second(ops.roi_align).abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*create_unbacked_symint.*:FutureWarning")
def test_compiled_nms_that_keeps_one_box() -> None:
    def compiled(nms) -> Tensor:
        function = torch.compile(lambda b, s: nms(b, s, 0.5), fullgraph=True, dynamic=True, backend="aot_eager")
        return function(BOX, torch.ones(1))

    with pytest.raises(RuntimeError, match="u0 >= 2"):
        compiled(peer.nms)
    assert compiled(ops.nms).tolist() == [0]


def test_gradient_of_ps_roi_pool_at_the_border() -> None:
    """Torchvision's reaches the last row and column of the map, which its forward pass leaves out."""
    features = torch.randn(1, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 2, 2, 6, 6]], dtype=torch.float64)
    assert not torch.autograd.gradcheck(lambda f: peer.ps_roi_pool(f, rois, 2), features, raise_exception=False)
    assert torch.autograd.gradcheck(lambda f: ops.ps_roi_pool(f, rois, 2), features)
