import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import masks_to_boxes

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)


def reference(masks: Tensor) -> Tensor:
    boxes = []
    for mask in masks:
        rows, columns = [torch.arange(0)] * 2 if mask.numel() == 0 else (mask != 0).nonzero().cpu().unbind(1)
        pixels = len(rows) > 0
        boxes.append([columns.min(), rows.min(), columns.max(), rows.max()] if pixels else [0, 0, 0, 0])
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


def blobs(n: int, height: int, width: int) -> Tensor:
    """Sparse specks within a random window of each mask; some are empty, some have pixels at the edges."""
    masks = torch.rand(n, height, width) < torch.rand(n, 1, 1) * 0.3
    for mask in masks:
        y, x = sorted(torch.randint(height + 1, (2,)).tolist()), sorted(torch.randint(width + 1, (2,)).tolist())
        window = torch.zeros_like(mask)
        window[y[0] : y[1], x[0] : x[1]] = True
        mask &= window
    return masks


SHAPES = [(0, 5, 5), (1, 1, 1), (4, 7, 3), (5, 1, 300), (3, 300, 1), (9, 31, 33), (6, 64, 64), (3, 40, 1100), (2, 0, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(device: torch.device, shape: tuple[int, int, int]) -> None:
    masks = blobs(*shape).to(device)
    for dtype in DTYPES:
        assert_equal(masks_to_boxes(masks.to(dtype)).cpu(), reference(masks))


@pytest.mark.parametrize("size", [(1, 130), (3, 129), (17, 37), (130, 260)])
def test_a_single_pixel_anywhere(device: torch.device, size: tuple[int, int]) -> None:
    height, width = size
    ys = sorted({0, height // 2, height - 1})
    for dtype in (torch.bool, torch.int16, torch.float32, torch.float64):
        for y in ys:
            xs = torch.arange(0, width, 1 if height == 3 else 7)
            masks = torch.zeros(len(xs), height, width, dtype=dtype, device=device)
            masks[torch.arange(len(xs)), y, xs] = 1
            expected = torch.tensor([[x, y, x, y] for x in xs.tolist()], dtype=torch.float32)
            assert_equal(masks_to_boxes(masks).cpu(), expected)


def test_by_hand(device: torch.device) -> None:
    masks = torch.tensor(
        [[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[0] * 4] * 3, [[1] * 4] * 3, [[0] * 4, [0] * 4, [0, 0, 0, 1]]]
    ).to(device)
    assert masks_to_boxes(masks).tolist() == [[1, 1, 2, 2], [0, 0, 0, 0], [0, 0, 3, 2], [3, 2, 3, 2]]


def test_one_large_mask(device: torch.device) -> None:
    """On CUDA several blocks share it."""
    mask = torch.zeros(1, 300, 201, dtype=torch.bool, device=device)
    for y, x in ((7, 150), (120, 3), (290, 60)):
        mask[0, y, x] = True
    assert masks_to_boxes(mask).tolist() == [[3, 7, 150, 290]]
    assert masks_to_boxes(~mask).tolist() == [[0, 0, 200, 299]]


def test_agrees_with_torchvision(device: torch.device) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="the peer")
    masks = blobs(20, 50, 70).to(device)
    masks[3] = False
    for dtype in DTYPES:
        assert_equal(masks_to_boxes(masks.to(dtype)), ops.masks_to_boxes(masks.to(dtype)))


def test_masks_without_pixels_are_counted(device: torch.device) -> None:
    """Of two masks of 0 x 5 pixels torchvision returns no boxes."""
    ops = pytest.importorskip("torchvision.ops", reason="the peer")
    masks = torch.zeros(2, 0, 5, device=device)
    assert ops.masks_to_boxes(masks).shape == (0, 4)
    assert masks_to_boxes(masks).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    samples = [Sample((blobs(4, 9, 13).double(),)), Sample((torch.zeros(0, 3, 3).double(),))]
    check_operator(masks_to_boxes, samples, device)
    check_operator(masks_to_boxes, [Sample((blobs(2, 5, 6),))], device, dtypes=())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.int32, torch.int64])
def test_layouts(device: torch.device, dtype: torch.dtype) -> None:
    """Transposed, channels last, every other pixel, repeated, unaligned, reversed axes."""
    masks = blobs(7, 70, 90).to(device, dtype)
    shifted = torch.zeros(masks.numel() + 1, dtype=dtype, device=device)[1:].view(masks.shape).copy_(masks)
    for view in (
        shifted,
        masks.transpose(1, 2),
        masks.permute(1, 2, 0),
        masks.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        masks[:, 1::2, ::3],
        masks[::2, 3:, 5:-4],
        masks[:1].expand(3, 70, 90),
        masks[:, :, :1].expand(7, 70, 1300),
        masks[:, :1].expand(7, 40, 90),
    ):
        assert_equal(masks_to_boxes(view).cpu(), reference(view))


def test_zeros_and_others(device: torch.device) -> None:
    """-0 is zero; NaN, infinities and the smallest numbers are not."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        masks = torch.full((5, 6, 40), -0.0, dtype=dtype, device=device)
        for i, value in enumerate((math.nan, math.inf, -math.inf, torch.finfo(dtype).smallest_normal)):
            masks[i, 2, 20 + i] = value
        assert masks_to_boxes(masks).tolist() == [[20 + i, 2, 20 + i, 2] for i in range(4)] + [[0, 0, 0, 0]]
    lowest = torch.zeros(1, 3, 40, dtype=torch.int8, device=device)
    lowest[0, 1, 39] = -128
    assert masks_to_boxes(lowest).tolist() == [[39, 1, 39, 1]]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 90), st.integers(1, 300))
def test_invariants(seed: int, n: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    masks = blobs(n, height, width)
    boxes = masks_to_boxes(masks)
    assert_equal(boxes, reference(masks))
    assert_equal(masks_to_boxes(masks.transpose(1, 2)), boxes[:, [1, 0, 3, 2]])
    filled = masks.any(2).any(1)
    mirrored = masks_to_boxes(masks.flip(2))
    assert_equal(mirrored[filled][:, [2, 0]], width - 1 - boxes[filled][:, [0, 2]])


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    masks, results = blobs(40, 300, 400), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(masks_to_boxes(masks))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[0], reference(masks))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("fake", [False, True])
def test_bad_inputs(device: torch.device, fake: bool) -> None:
    where = torch.device("meta") if fake else device
    for masks, message in (
        (torch.zeros(3, 3), r"expected masks of shape \(\*, \*, \*\), got \(3, 3\)"),
        (torch.zeros(1, 2, 3, 4), r"expected masks of shape \(\*, \*, \*\), got \(1, 2, 3, 4\)"),
        (torch.zeros(1, 3, 3, dtype=torch.complex64), "expected masks of a floating or integer dtype, got"),
    ):
        with pytest.raises(RuntimeError, match="masks_to_boxes: " + message):
            masks_to_boxes(masks.to(where))
