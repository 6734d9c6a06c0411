import math
from collections.abc import Sequence

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import anchor_grid

Pairs = Sequence[tuple[int, int]]


def cells(*counts: int) -> list[Tensor]:
    """Cell anchors of each level, in quarters, exact in every dtype."""
    return [(torch.randint(-64, 65, (count, 4)) / 4).double() for count in counts]


def reference(cell_anchors: Sequence[Tensor], sizes: Pairs, strides: Pairs) -> Tensor:
    """Location by location in plain Python."""
    anchors = []
    for cell, (height, width), (stride_y, stride_x) in zip(cell_anchors, sizes, strides, strict=True):
        for y in range(height):
            for x in range(width):
                for x1, y1, x2, y2 in cell.tolist():
                    dx, dy = x * stride_x, y * stride_y
                    anchors.append([x1 + dx, y1 + dy, x2 + dx, y2 + dy])
    return torch.tensor(anchors, dtype=torch.float64).view(-1, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("counts", "sizes", "strides"),
    [
        ((3,), [(5, 7)], [(8, 16)]),
        ((1,), [(1, 1)], [(4, 4)]),
        ((3, 3, 3, 3, 3), [(20, 31), (10, 15), (5, 8), (3, 4), (1, 2)], [(4, 4), (8, 8), (16, 16), (32, 32), (61, 63)]),
        ((9, 1, 0, 4), [(6, 1), (1, 13), (3, 3), (2, 0)], [(8, 8), (0, 5), (2, 2), (1, 1)]),
        ((1,) * 20, [(2, 3)] * 20, [(3, -2)] * 20),
    ],
)
def test_matches_the_definition(
    device: torch.device, dtype: torch.dtype, counts: tuple[int, ...], sizes: Pairs, strides: Pairs
) -> None:
    cell_anchors = cells(*counts)
    actual = anchor_grid([cell.to(device, dtype) for cell in cell_anchors], sizes, strides)
    assert actual.dtype == dtype and actual.is_contiguous()
    assert_equal(actual.cpu(), reference(cell_anchors, sizes, strides).to(dtype))


def test_by_hand(device: torch.device) -> None:
    small, large = torch.tensor([[-1.0, -2, 1, 2]], device=device), torch.tensor([[-4.0, -4, 4, 4]], device=device)
    actual = anchor_grid([small, large], [(2, 2), (1, 1)], [(10, 20), 64])
    assert actual.tolist() == [
        [-1, -2, 1, 2],
        [19, -2, 21, 2],
        [-1, 8, 1, 12],
        [19, 8, 21, 12],
        [-4, -4, 4, 4],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_torchvision(device: torch.device, dtype: torch.dtype) -> None:
    """Bit for bit, where half precision cannot hold the coordinates, too."""
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils", reason="the peer")
    generator = utils.AnchorGenerator(((32, 40), (64,), (131,)), ((0.5, 1.0, 2.0), (0.3, 1.0), (1.0,)))
    generator.set_cell_anchors(dtype, device)
    noisy = [cell + torch.rand_like(cell) for cell in generator.cell_anchors]
    generator.cell_anchors = noisy
    sizes, strides = [(40, 61), (11, 7), (3, 2)], [(17, 13), (4095, 4099), (40000, 70000)]
    steps = [[torch.tensor(y, device=device), torch.tensor(x, device=device)] for y, x in strides]
    assert_equal(anchor_grid(noisy, sizes, strides), torch.cat(generator.grid_anchors(sizes, steps)))


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    def two_levels(first: Tensor, second: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        return anchor_grid([first, second], [size, (2, 1)], [stride, (stride, 3)])

    samples = [
        Sample((*cells(3, 2), (2, 3), 4), differentiable=(0, 1)),
        Sample((*cells(0, 1), (3, 2), 8), differentiable=(0, 1)),
        Sample((*cells(1, 1), (0, 2), 8), differentiable=(0, 1)),
    ]
    check_operator(two_levels, samples, device)


def test_values_without_meaning(device: torch.device) -> None:
    cell = torch.tensor([[math.nan, math.inf, 1e30, -math.inf]], device=device)
    actual = anchor_grid([cell], [(2, 2)], [2**30])
    assert_equal(actual, (cell + torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=device).repeat(1, 2) * 2.0**30))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_every_level_by_itself(data: st.DataObject) -> None:
    levels = data.draw(st.integers(1, 4))
    draw = [data.draw(st.tuples(*[st.integers(0, 9)] * 3, *[st.integers(1, 64)] * 2)) for _ in range(levels)]
    cell_anchors = cells(*(count for count, *_ in draw))
    sizes, strides = [(h, w) for _, h, w, *_ in draw], [(y, x) for *_, y, x in draw]
    each = [anchor_grid([c], [s], [t]) for c, s, t in zip(cell_anchors, sizes, strides, strict=True)]
    whole = anchor_grid(cell_anchors, sizes, strides)
    assert_equal(whole, torch.cat(each))
    assert_equal(whole, reference(cell_anchors, sizes, strides))


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    cell_anchors, results = cells(3, 3, 2), []
    sizes, strides = [(601, 599), (75, 77), (38, 40)], [(4, 4), (8, 8), (16, 16)]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(anchor_grid(cell_anchors, sizes, strides))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("fake", [False, True])
def test_bad_inputs(device: torch.device, fake: bool) -> None:
    cell = torch.zeros(3, 4, device="meta" if fake else device)
    for args, message in (
        (([], [], []), r"expected cell_anchors of at least one level, got none"),
        (([cell], [(1, 1), (2, 2)], [1]), r"expected feature_sizes of 1 levels, got 2"),
        (([cell, cell], [(1, 1), (2, 2)], [1]), r"expected strides of 2 levels, got 1"),
        (([cell], [(1, -1)], [1]), r"expected feature_sizes\[0\] of 0 or more, got \(1, -1\)"),
        (([cell[:, :3]], [(1, 1)], [1]), r"expected cell_anchors\[0\] of shape \(\*, 4\), got \(3, 3\)"),
        (([cell[0]], [(1, 1)], [1]), r"expected cell_anchors\[0\] of shape \(\*, 4\), got \(4\)"),
        (([cell.int()], [(1, 1)], [1]), r"expected cell_anchors\[0\] of dtype float32, .*, got int32"),
        (
            ([cell, cell.double()], [(1, 1)] * 2, [1, 1]),
            r"expected cell_anchors\[1\] of the dtype of cell_anchors\[0\], float32, got float64",
        ),
    ):
        with pytest.raises(RuntimeError, match="anchor_grid: " + message):
            anchor_grid(*args)
    with pytest.raises(ValueError, match=r"anchor_grid: expected feature_sizes\[0\] \(vertical, horizontal\)"):
        anchor_grid([cell], [(1, 2, 3)], [1])
    with pytest.raises(ValueError, match=r"anchor_grid: expected strides\[0\] \(vertical, horizontal\)"):
        anchor_grid([cell], [(1, 2)], [(1,)])
