import math
from collections.abc import Sequence

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import box_iou, match_boxes

HIGH, LOW = 0.5, 0.25  # on a grid of small integers many overlaps are exactly these


def grid_boxes(n: int, cells: int = 6, smallest: int = 1) -> Tensor:
    """Boxes with small integer corners: exact in every dtype, with many equal overlaps."""
    corners = torch.randint(0, cells, (n, 2))
    return torch.cat([corners, corners + torch.randint(smallest, cells, (n, 2))], dim=1).double()


def reference(gt_boxes: Tensor, boxes: Tensor, high: float, low: float, low_quality: bool) -> tuple[Tensor, Tensor]:
    """Box by box in plain Python; thresholds and overlaps are compared in float64."""

    def iou(a: Sequence[float], b: Sequence[float]) -> float:
        shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        joint = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / joint if joint else 0.0

    table = [[iou(gt, box) for gt in gt_boxes.tolist()] for box in boxes.tolist()]
    best_of_gt = [max(column) for column in zip(*table, strict=True)]
    matches, ious = [], []
    for row in table:
        best = max(row, default=0.0)
        match = -1 if not row or best < low else -2 if best < high else row.index(best)
        if low_quality and any(overlap == most for overlap, most in zip(row, best_of_gt, strict=True)):
            match = row.index(best)
        matches.append(match)
        ious.append(best)
    return torch.tensor(matches, dtype=torch.int64), torch.tensor(ious, dtype=torch.float64)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (17, 64), (7, 65), (20, 513), (40, 700)])
def test_matches_the_definition(device: torch.device, sizes: tuple[int, int], low_quality: bool) -> None:
    gt_boxes, boxes = grid_boxes(sizes[0]), grid_boxes(sizes[1])
    expected, expected_ious = reference(gt_boxes, boxes, HIGH, LOW, low_quality)
    matches, ious = match_boxes(gt_boxes.to(device), boxes.to(device), HIGH, LOW, low_quality)
    assert_equal(matches.cpu(), expected)
    torch.testing.assert_close(ious.cpu(), expected_ious, rtol=1e-12, atol=0)


def test_by_hand(device: torch.device) -> None:
    gt_boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [10, 10, 12, 12]], device=device)
    boxes = torch.tensor(
        [[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 1], [0, 0, 1, 1], [20, 20, 21, 21], [10, 10, 12, 10.5]], device=device
    )
    matches, ious = match_boxes(gt_boxes, boxes, 0.5, 0.25)
    assert ious.tolist() == [1, 0.5, 0.25, 0.0625, 0, 0.25]
    assert matches.tolist() == [0, 0, -2, -1, -1, -2]  # of two equal ground truths the first; thresholds belong above
    assert match_boxes(gt_boxes, boxes, 0.5, 0.25, True)[0].tolist() == [0, 0, -2, -1, -1, 2]


def test_a_ground_truth_that_nothing_overlaps(device: torch.device) -> None:
    """Its best overlap, 0, is with every box: as in torchvision, all are matched to their own best one."""
    gt_boxes = torch.tensor([[0.0, 0, 4, 4], [50, 50, 60, 60], [0, 0, 2, 2]], device=device)
    boxes = torch.tensor([[0.0, 0, 1, 1], [30, 30, 31, 31], [3, 3, 5, 5]], device=device)
    assert match_boxes(gt_boxes, boxes, 0.5, 0.25, True)[0].tolist() == [2, 0, 0]


def proposals(n: int) -> Tensor:
    """None of them empty in any dtype: torchvision's overlap of two empty boxes is NaN, and matches nothing right."""
    corners = torch.rand(n, 2) * 300
    return torch.cat([corners, corners + 4 + torch.rand(n, 2) * 80], dim=1)


def anchors(rows: int = 25, columns: int = 38) -> Tensor:
    y, x = torch.meshgrid(torch.arange(rows) * 16.0, torch.arange(columns) * 16.0, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    cells = torch.tensor([[-23.0, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23], [-64, -64, 64, 64]])
    return (centres + cells).reshape(-1, 4)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, low_quality: bool) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou as peer_iou

    for gt_boxes, boxes in (
        (proposals(30), anchors()),
        (anchors(2, 3), anchors()),
        (proposals(300), proposals(1000)),
        (grid_boxes(20), grid_boxes(2000)),
        (torch.cat([proposals(5), torch.tensor([[900.0, 900, 990, 990]])]), anchors()),
    ):
        gt_boxes, boxes = gt_boxes.to(dtype), boxes.to(dtype)
        wide = [t.float() if dtype.itemsize == 2 else t for t in (gt_boxes, boxes)]  # torchvision's sides round to half
        table = peer_iou(*wide)
        for high, low in ((0.7, 0.3), (0.5, 0.5), (0.5, 0.4), (0.6, 0.2), (0.0, 0.0), (1.0, -1.0)):
            expected = Matcher(high, low, low_quality)(table)
            matches, ious = match_boxes(gt_boxes.to(device), boxes.to(device), high, low, low_quality)
            assert_equal(matches.cpu(), expected)
            assert_equal(ious.cpu(), table.amax(0))


@pytest.mark.parametrize(("high", "dtype"), [(0.7, torch.float32), (0.3, torch.float32), (0.7, torch.float64)])
def test_thresholds_are_compared_in_the_dtype_of_the_overlap(
    device: torch.device, high: float, dtype: torch.dtype
) -> None:
    """As torch compares a tensor with a Python number: float32(0.7) is below 0.7 and still a match at 0.7."""
    box = torch.tensor([[0.0, 0, 10, 10]], dtype=dtype, device=device)
    part = torch.tensor([[0.0, 0, 10, 10 * high]], dtype=torch.float64, device=device).round().to(dtype)
    matches, ious = match_boxes(box, part, high, high)
    assert ious.item() == torch.tensor(high, dtype=dtype).item() and matches.item() == 0


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    samples = [Sample((grid_boxes(5), grid_boxes(90), HIGH, LOW, low_quality)) for low_quality in (False, True)] + [
        Sample((grid_boxes(0), grid_boxes(3), HIGH, LOW)),
        Sample((grid_boxes(3), grid_boxes(0), HIGH, LOW, True)),
        Sample(([grid_boxes(4), grid_boxes(0), grid_boxes(9)], grid_boxes(70), HIGH, LOW, True)),
        Sample(([grid_boxes(4), grid_boxes(5)], [grid_boxes(70), grid_boxes(0)], HIGH, LOW, True)),
    ]
    check_operator(match_boxes, samples, device)


@pytest.mark.parametrize("low_quality", [False, True])
def test_lists_are_images(device: torch.device, low_quality: bool) -> None:
    gt_boxes = [grid_boxes(n).to(device) for n in (3, 0, 40, 1, 7)]
    shared, own = grid_boxes(600).to(device), [grid_boxes(n).to(device) for n in (600, 5, 64, 0, 1030)]
    for boxes in (shared, own):
        matches, ious = match_boxes(gt_boxes, boxes, HIGH, LOW, low_quality)
        assert len(matches) == len(ious) == 5
        assert len({t.untyped_storage().data_ptr() for t in matches}) == 1
        for i, targets in enumerate(gt_boxes):
            of_image = boxes if isinstance(boxes, Tensor) else boxes[i]
            assert_equal((matches[i], ious[i]), match_boxes(targets, of_image, HIGH, LOW, low_quality))
    assert match_boxes([], shared, HIGH, LOW) == ([], []) == match_boxes([], [], HIGH, LOW)


def test_empty(device: torch.device) -> None:
    none, some = torch.zeros(0, 4, device=device), torch.ones(3, 4, device=device)
    for thresholds in ((0.5, 0.4), (0.0, -1.0)):
        matches, ious = match_boxes(none, some, *thresholds, True)
        assert matches.tolist() == [-1] * 3 and ious.tolist() == [0] * 3
    matches, ious = match_boxes(some, none, 0.5, 0.4, True)
    assert matches.shape == ious.shape == (0,)
    assert matches.dtype == torch.int64 and ious.dtype == torch.float32


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), gts=st.integers(1, 40), n=st.integers(1, 300), smallest=st.integers(0, 2))
def test_invariants(seed: int, gts: int, n: int, smallest: int) -> None:
    torch.manual_seed(seed)
    gt_boxes, boxes = grid_boxes(gts, smallest=smallest).float(), grid_boxes(n, cells=9, smallest=smallest).float()
    for low_quality in (False, True):
        matches, ious = match_boxes(gt_boxes, boxes, HIGH, LOW, low_quality)
        table = box_iou(gt_boxes, boxes)
        assert_equal(ious, table.amax(0))
        matched = matches >= 0
        assert_equal(table[matches[matched], matched.nonzero()[:, 0]], ious[matched])
        if low_quality:
            assert ((table == table.amax(1, keepdim=True)) <= matched).all()
        else:
            assert_equal(matches == -1, ious < LOW)
            assert_equal(matched, ious >= HIGH)
        order = torch.randperm(n)  # of boxes: no box depends on another's place
        assert_equal(match_boxes(gt_boxes, boxes[order], HIGH, LOW, low_quality)[0], matches[order])
        assert_equal(match_boxes(gt_boxes * 4 + 8, boxes * 4 + 8, HIGH, LOW, low_quality)[0], matches)


def test_values_without_meaning(device: torch.device) -> None:
    """An overlap that is not a number counts as 0; a reversed box overlaps nothing; nothing crashes."""
    inf, nan = math.inf, math.nan
    odd = [
        [nan] * 4, [nan, 0, 4, 4], [0, 0, 4, nan], [-inf, -inf, inf, inf], [inf] * 4, [inf, 0, inf, 1],
        [1e30, 1e30, 2e30, 2e30], [-3e38, -3e38, 3e38, 3e38], [4, 4, 0, 0], [2, 2, 2, 2], [0, 0, 4, 4], [1, 1, 4, 4],
    ]  # fmt: skip
    boxes = torch.tensor(odd, device=device)
    for gt_boxes in (boxes, boxes.flip(0), *boxes.unsqueeze(1)):
        table = box_iou(gt_boxes, boxes.repeat(40, 1)).nan_to_num(nan=0.0)
        for low_quality in (False, True):
            matches, ious = match_boxes(gt_boxes, boxes.repeat(40, 1), HIGH, LOW, low_quality)
            assert_equal(ious, table.amax(0))
            best = table.argmax(0)
            expected = best.masked_fill(ious < HIGH, -2).masked_fill(ious < LOW, -1)
            tied = (table == table.amax(1, keepdim=True)).any(0) & low_quality
            assert_equal(matches, torch.where(tied, best, expected))


def test_layouts(device: torch.device) -> None:
    gt_boxes, boxes = grid_boxes(9).float(), grid_boxes(700).float()
    expected = match_boxes(gt_boxes.to(device), boxes.to(device), HIGH, LOW, True)
    padded = torch.zeros(700, 7)
    padded[:, 2:6] = boxes
    for strided in (padded.to(device)[:, 2:6], boxes.T.contiguous().to(device).T, boxes.flip(0).to(device).flip(0)):
        assert_equal(match_boxes(gt_boxes.to(device), strided, HIGH, LOW, True), expected)
    one = boxes[:1].to(device).expand(600, 4)
    assert_equal(
        match_boxes(gt_boxes.to(device), one, HIGH, LOW), match_boxes(gt_boxes.to(device), one.clone(), HIGH, LOW)
    )


def test_mixed_dtypes_and_autocast(device: torch.device) -> None:
    gt_boxes, boxes = grid_boxes(9).to(device), grid_boxes(300).to(device)
    expected = match_boxes(gt_boxes.float(), boxes.float(), HIGH, LOW, True)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_equal(match_boxes(gt_boxes.half(), boxes.float(), HIGH, LOW, True), expected)
    assert_equal(match_boxes(gt_boxes.int(), boxes.bfloat16(), HIGH, LOW, True), expected)
    assert match_boxes(gt_boxes.half(), boxes, HIGH, LOW)[1].dtype == torch.float64


def test_not_differentiable(device: torch.device) -> None:
    boxes = grid_boxes(9).to(device).requires_grad_()
    assert not match_boxes(boxes, boxes, HIGH, LOW)[1].requires_grad
    assert not match_boxes([boxes], boxes, HIGH, LOW)[1][0].requires_grad


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    gt_boxes, boxes = proposals(60), anchors(120, 100)
    images = ([gt_boxes[:20], gt_boxes[20:]], [boxes, boxes[:40000]])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append((match_boxes(gt_boxes, boxes, 0.7, 0.3, True), match_boxes(*images, 0.7, 0.3, True)))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.large
def test_more_than_2_31_elements() -> None:
    """Needs 9 GB: 2 GB of boxes, 6 GB of results."""
    boxes = torch.zeros(2**29 + 70, 4, dtype=torch.int8)
    boxes[-1] = torch.tensor([10, 10, 20, 20])
    matches, ious = match_boxes(boxes[-1:], boxes, 0.5, 0.5, True)
    assert matches[-1] == 0 and ious[-1] == 1 and matches[-2] == -1 and ious[:-1].max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a[:, :3], a), r"expected gt_boxes of shape \(\*, 4\), got \(5, 3\)"),
        (lambda a: (a, a[0]), r"expected boxes of shape \(\*, 4\), got \(4\)"),
        (lambda a: (a.bool(), a), r"expected gt_boxes of a floating or integer dtype, got bool"),
        (lambda a: (a, a.to("meta")), r"expected boxes on the device of gt_boxes, .*, got"),
        (lambda a: ([a, a[:, 1:]], a), r"expected gt_boxes\[1\] of shape \(\*, 4\), got \(5, 3\)"),
        (lambda a: ([a, a], [a, a[None]]), r"expected boxes\[1\] of shape \(\*, 4\), got \(1, 5, 4\)"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^match_boxes: {message}"):
        match_boxes(*make(grid_boxes(5).to(device)), HIGH, LOW)


def test_traced_programs_say_the_same() -> None:
    a = torch.ones(2, 4)
    for bad in ((a[:, 1:], a), (a, a.bool()), ([a, a[0]], a), ([a, a], [a, a[0]])):
        with pytest.raises(RuntimeError) as eager:
            match_boxes(*bad, HIGH, LOW)
        with pytest.raises(RuntimeError) as traced:
            match_boxes(*torch.utils._pytree.tree_map(lambda t: t.to("meta"), bad), HIGH, LOW)
        assert str(traced.value) == str(eager.value)


def test_arguments_of_the_wrong_kind() -> None:
    a = torch.ones(2, 4)
    for high, low in ((0.3, 0.5), (math.nan, 0.5), (0.5, math.nan)):
        with pytest.raises(ValueError, match="match_boxes: expected low_threshold at most high_threshold, got"):
            match_boxes(a, a, high, low)
    with pytest.raises(ValueError, match="match_boxes: expected boxes of 3 images, got 1"):
        match_boxes([a, a, a], [a], HIGH, LOW)
    with pytest.raises(TypeError, match="match_boxes: expected boxes to be a tensor"):
        match_boxes(a, [a], HIGH, LOW)
