import math

import pytest
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detops.ops import remove_small_boxes

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
BY_HAND = [[0.0, 0, 1, 5], [0, 0, 2, 2], [3, 3, 3, 9], [4, 4, 1, 1], [math.nan, 0, 5, 5], [0, 0, math.inf, math.nan]]


def random_boxes(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(n, 4), sides of 0 to 20."""
    corners = torch.rand(n, 2) * 90
    boxes = torch.cat([corners, corners + torch.rand(n, 2) * 20], dim=1)
    return (boxes if dtype.is_floating_point else boxes.round()).to(dtype)


def reference(boxes: Tensor, min_size: float) -> list[int]:
    """Box by box; exact for the values that the tests give it."""
    return [i for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()) if x2 - x1 >= min_size and y2 - y1 >= min_size]


def test_by_hand(device: torch.device) -> None:
    boxes = torch.tensor(BY_HAND, device=device)
    kept = remove_small_boxes(boxes, 1.0)
    assert kept.tolist() == [0, 1]
    assert kept.dtype == torch.int64
    assert kept.device == boxes.device
    assert remove_small_boxes(boxes, -3).tolist() == [0, 1, 2, 3]
    assert remove_small_boxes(boxes, math.inf).tolist() == []
    assert remove_small_boxes(boxes, -math.inf).tolist() == [0, 1, 2, 3]
    assert remove_small_boxes(boxes, math.nan).tolist() == []
    assert remove_small_boxes(boxes[:0], 1.0).tolist() == []


# Around vectors, words of bits, pieces, blocks of rows and threads.
@pytest.mark.parametrize("n", [1, 15, 16, 31, 32, 33, 100, 255, 256, 257, 511, 600, 1025, 2049, 5000])
def test_any_number_of_boxes(device: torch.device, n: int) -> None:
    boxes = random_boxes(n, torch.float64).mul(8).round().div(8).to(torch.float32)
    for min_size in (0.0, 2.0, 10.125, 19.0, 25.0):
        assert remove_small_boxes(boxes.to(device), min_size).tolist() == reference(boxes, min_size)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=0, max_size=300))
def test_any_pattern(kept: list[bool]) -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4] if keep else [1, 2, 1, 4] for keep in kept]).reshape(-1, 4)
    assert remove_small_boxes(boxes, 1).tolist() == [i for i, keep in enumerate(kept) if keep]


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGER], ids=str)
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops
    boxes = random_boxes(700, dtype)
    boxes[::7] = boxes[::7].flip(1)  # inverted: the sides of unsigned integers wrap
    # Sides that are the limit itself, rounded to the dtype, or next to it.
    for min_size in (0, 0.1, 1e-3, 1, 1.00000001, 3, 7.03, 10, 1e5, -1.5, 1e-9, math.nan, math.inf, -math.inf):
        if dtype.is_floating_point:
            limit = torch.tensor([min_size], dtype=dtype).item()
            near = torch.nextafter(torch.tensor(limit), torch.tensor([-math.inf, math.inf])).to(dtype)
            boxes[:3] = torch.tensor([[0, 0, limit, limit], [0, 0, near[0], limit], [0, 0, near[1], near[1]]])
        expected = peer.remove_small_boxes(boxes, float(min_size))
        assert torch.equal(remove_small_boxes(boxes.to(device), min_size).cpu(), expected), min_size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_sides_are_rounded_as_pytorch_rounds_them(device: torch.device, dtype: torch.dtype) -> None:
    values = torch.cat([torch.linspace(-300, 300, 301), torch.logspace(-6, 4, 100)]).to(dtype)
    boxes = torch.stack([values, values, values.roll(37), values.roll(37)], dim=1)
    for min_size in ((boxes[:, 2] - boxes[:, 0])[::20]).tolist():
        expected = (boxes[:, 2] - boxes[:, 0] >= min_size).nonzero()[:, 0]
        assert torch.equal(remove_small_boxes(boxes.to(device), min_size).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16], ids=str)
def test_any_strides(device: torch.device, dtype: torch.dtype) -> None:
    boxes = random_boxes(300, dtype).to(device)
    expected = remove_small_boxes(boxes, 5)
    wide = torch.cat([boxes, boxes], dim=1)
    shifted = torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].view(-1, 4)
    for layout in (
        wide[:, :4],
        wide[:, 4:],
        boxes.t().contiguous().t(),
        boxes.repeat_interleave(2, 1)[:, ::2],
        shifted,
    ):
        assert torch.equal(remove_small_boxes(layout, 5), expected)
    assert remove_small_boxes(boxes[expected[:1]].expand(40, 4), 5).tolist() == list(range(40))


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    samples = [Sample((torch.tensor(BY_HAND, dtype=torch.float64), 1.5)), Sample((torch.zeros(0, 4).double(), 1.0))]
    check_operator(remove_small_boxes, samples, device)


def test_ignores_gradients_and_autocast(device: torch.device) -> None:
    boxes = random_boxes(50).to(device).requires_grad_()
    expected = remove_small_boxes(boxes.detach(), 4.0)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        kept = remove_small_boxes(boxes, 4.0)
    assert torch.equal(kept, expected)
    assert not kept.requires_grad


@pytest.mark.threads
def test_same_result_with_any_number_of_threads(device: torch.device) -> None:
    boxes = random_boxes(700_001).to(device)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(remove_small_boxes(boxes, 4.0))
    finally:
        torch.set_num_threads(before)
    expected = ((boxes[:, 2:] - boxes[:, :2]) >= 4).all(dim=1).nonzero()[:, 0]
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(3, 5), r"remove_small_boxes: expected boxes of shape \(\*, 4\), got \(3, 5\)"),
        (torch.zeros(4), r"remove_small_boxes: expected boxes of shape \(\*, 4\), got \(4\)"),
        (torch.zeros(2, 3, 4), r"remove_small_boxes: expected boxes of shape \(\*, 4\), got \(2, 3, 4\)"),
        (torch.zeros(3, 4).bool(), "remove_small_boxes: expected boxes of a floating or integer dtype, got bool"),
    ],
)
def test_says_what_is_wrong(device: torch.device, boxes: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        remove_small_boxes(boxes.to(device), 1.0)
    with FakeTensorMode() as mode, pytest.raises(RuntimeError, match=message):
        remove_small_boxes(mode.from_tensor(boxes), 1.0)
