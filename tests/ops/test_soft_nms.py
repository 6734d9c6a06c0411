import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import nms, soft_nms, soft_nms_padded

METHODS = ("naive", "linear", "gaussian")


def reference(
    boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float, method: str
) -> tuple[list[list[float]], list[int]]:
    """The algorithm of the paper's figure 3, in plain Python and double precision."""

    def iou(a: list[float], b: list[float]) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(w, 0) * max(h, 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / union if union else 0.0

    def weight(overlap: float) -> float:
        if method == "gaussian":
            return math.exp(-(overlap**2) / sigma)
        if overlap < iou_threshold:
            return 1.0
        return 1 - overlap if method == "linear" else 0.0

    left, rows = dict(enumerate(scores.tolist())), boxes.tolist()
    dets, keep = [], []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        dets.append([*rows[best], left.pop(best)])
        keep.append(best)
        for i in list(left):
            left[i] *= weight(iou(rows[best], rows[i]))
            if left[i] < min_score:
                del left[i]
    return dets, keep


def clustered(n: int, clusters: int = 8) -> tuple[Tensor, Tensor]:
    """Boxes in eighths around a few centres, so that many overlap; distinct scores."""
    centre = torch.randint(5, 120, (max(n, 1) // clusters + 1, 2)).repeat_interleave(clusters, 0)[:n]
    corner = centre + torch.randint(-32, 33, (n, 2)) / 8
    boxes = torch.cat([corner, corner + torch.randint(16, 240, (n, 2)) / 8], 1)
    return boxes.double(), ((torch.randperm(n) + 1) / max(n, 1)).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 10, 63, 65, 129, 300])
def test_matches_the_definition(device: torch.device, n: int, method: str) -> None:
    boxes, scores = clustered(n)
    for iou_threshold, sigma, min_score in ((0.3, 0.5, 1e-3), (0.61, 0.1, 0.2), (0.0, 2.0, 0.0)):
        args = (iou_threshold, sigma, min_score, method)
        expected, kept = reference(boxes, scores, *args)
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            if dtype == torch.float32 and n > 100:
                continue  # products of many weights come in another order, rightly
            dets, keep = soft_nms(boxes.to(device, dtype), scores.to(device, dtype), *args)
            assert dets.dtype == dtype and dets.shape == (len(kept), 5)
            assert keep.tolist() == kept
            close = {"rtol": tolerance, "atol": 0.0}
            torch.testing.assert_close(
                dets.cpu().double(), torch.tensor(expected, dtype=torch.float64).view(-1, 5), **close
            )


def test_many_boxes() -> None:
    """More than are sorted at once, with boxes moved together several times."""
    boxes, scores = clustered(1500)
    for method in METHODS:
        args = (0.3, 0.5, 1e-2, method)
        dets, keep = soft_nms(boxes, scores, *args)
        expected, kept = reference(boxes, scores, *args)
        assert keep.tolist() == kept
        torch.testing.assert_close(dets, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_by_hand(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30], [0, 5, 10, 10]], device=device)
    scores = torch.tensor([0.8, 0.7, 0.5, 0.4], device=device)
    dets, keep = soft_nms(boxes, scores)
    assert keep.tolist() == [0, 2, 1, 3]
    torch.testing.assert_close(dets[:, 4].cpu(), torch.tensor([0.8, 0.5, 0.35, 0.2]))
    assert_equal(dets[:, :4], boxes[keep])
    assert soft_nms(boxes, scores, 0.51)[1].tolist() == [0, 1, 2, 3]
    assert soft_nms(boxes, scores, 0.5, method="naive")[1].tolist() == [0, 2]
    assert soft_nms(boxes, scores, min_score=0.3)[1].tolist() == [0, 2, 1]
    dets, keep = soft_nms(boxes, scores, sigma=0.25, method="gaussian")
    assert keep.tolist() == [0, 2, 1, 3]
    expected = torch.tensor([0.8, 0.5, 0.7 / math.e, 0.4 / math.e])
    torch.testing.assert_close(dets[:, 4].cpu(), expected)


def test_ties(device: torch.device) -> None:
    """The lowest index, wherever the box lies."""
    corner = torch.rand(200, 2, device=device) * 1000
    boxes = torch.cat([corner, corner + 1], 1)
    scores = torch.ones(200, device=device)
    scores[50:150] = 0.5
    _, keep = soft_nms(boxes, scores, 1.0)
    assert keep.tolist() == [*range(50), *range(150, 200), *range(50, 150)]
    assert (soft_nms(boxes[:1].expand(200, 4), scores, 1.0, method="linear")[1].tolist()) == [0]


def test_the_best_box_is_kept_whatever_its_score(device: torch.device) -> None:
    boxes, scores = (t.to(device) for t in clustered(20))
    dets, keep = soft_nms(boxes, scores, min_score=2.0)
    assert keep.tolist() == [scores.argmax().item()] and dets[0, 4] == scores.max()


def test_naive_is_nms(device: torch.device) -> None:
    """But for a tie at the threshold, where this one drops."""
    boxes, scores = (t.to(device) for t in clustered(120))
    assert_equal(soft_nms(boxes, scores, 0.4567, method="naive")[1], nms(boxes, scores, 0.4567))


@pytest.mark.parametrize("method", METHODS)
def test_padded(device: torch.device, method: str) -> None:
    images = [clustered(70) for _ in range(3)]
    boxes, scores = (torch.stack(t).float().to(device) for t in zip(*images, strict=True))
    whole = [soft_nms(b, s, 0.3, 0.5, 0.1, method) for b, s in zip(boxes, scores, strict=True)]
    for limit in (0, 1, 17, 70, 90):
        dets, keep, count = soft_nms_padded(boxes, scores, limit, 0.3, 0.5, 0.1, method)
        assert dets.shape == (3, limit, 5) and keep.shape == (3, limit) and count.shape == (3,)
        for i, (all_dets, all_keep) in enumerate(whole):
            kept = min(limit, len(all_keep))
            assert count[i] == kept
            assert_equal(keep[i].cpu(), torch.cat([all_keep[:kept].cpu(), torch.full((limit - kept,), -1)]))
            assert_equal(dets[i, :kept], all_dets[:kept])
            assert (dets[i, kept:] == 0).all()
            single = soft_nms_padded(boxes[i], scores[i], limit, 0.3, 0.5, 0.1, method)
            assert_equal(single, (dets[i], keep[i], count[i]))
    empty = soft_nms_padded(boxes[:, :0], scores[:, :0], 4)
    assert empty[1].tolist() == [[-1] * 4] * 3 and empty[2].tolist() == [0, 0, 0]
    assert soft_nms_padded(boxes[:0], scores[:0], 4)[0].shape == (0, 4, 5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, method: str) -> None:
    boxes, scores = clustered(9, 3)
    scores = torch.tensor([1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.1875, 0.125])[torch.randperm(9)].double()
    empty = torch.zeros(0, 4).double(), torch.zeros(0).double()
    rest = (0.3, 0.5, 0.05, method)
    check_operator(soft_nms, [Sample((boxes, scores, *rest)), Sample((*empty, *rest))], device)
    batch = torch.stack([boxes, boxes.flip(0)]), torch.stack([scores, scores])
    samples = [Sample((boxes, scores, 20, *rest)), Sample((*batch, 3, *rest)), Sample((*empty, 2, *rest))]
    check_operator(soft_nms_padded, samples, device)


def test_dtypes(device: torch.device) -> None:
    boxes, scores = clustered(30)
    boxes = boxes.round()
    for boxes_dtype in (torch.float16, torch.float32, torch.float64, torch.int16, torch.int64):
        for scores_dtype in (torch.bfloat16, torch.float32, torch.float64):
            rounded = scores.to(scores_dtype)
            dets, keep = soft_nms(boxes.to(device, boxes_dtype), rounded.to(device))
            wide = torch.float64 in (boxes_dtype, scores_dtype)
            assert dets.dtype == (torch.float64 if wide else torch.float32)
            assert keep.tolist() == reference(boxes, rounded.double(), 0.3, 0.5, 1e-3, "linear")[1]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert soft_nms(boxes.to(device).float(), scores.to(device).float())[0].dtype == torch.float32


def test_has_no_gradient(device: torch.device) -> None:
    boxes, scores = (t.to(device).requires_grad_() for t in clustered(5))
    assert not any(t.requires_grad for t in (*soft_nms(boxes, scores), *soft_nms_padded(boxes, scores, 3)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 400), st.sampled_from(METHODS), st.floats(0.05, 0.95))
def test_invariants(seed: int, n: int, method: str, iou_threshold: float) -> None:
    torch.manual_seed(seed)
    boxes, scores = clustered(n)
    dets, keep = soft_nms(boxes, scores, iou_threshold, method=method)
    assert len(set(keep.tolist())) == len(keep) and keep[0] == scores.argmax()
    assert_equal(dets[:, :4], boxes[keep])
    assert (dets[:, 4].diff() <= 0).all() and (dets[:, 4] <= scores[keep]).all() and (dets[1:, 4] >= 1e-3).all()
    order = torch.randperm(n)
    shuffled, places = soft_nms(boxes[order], scores[order], iou_threshold, method=method)
    assert_equal(shuffled, dets)
    assert_equal(order[places], keep)
    moved = soft_nms(boxes * 4 + 64, scores, iou_threshold, method=method)
    assert_equal(moved[1], keep)


def test_values_without_meaning(device: torch.device) -> None:
    nan, inf = math.nan, math.inf
    box = [0.0, 0, 10, 10]
    boxes = torch.tensor(
        [
            box,
            [nan, 0, 10, 10],
            [0, 0, nan, nan],
            [-inf, -inf, inf, inf],
            [5, 5, 5, 5],
            [5, 5, 5, 5],
            [9, 9, 1, 1],
            [-1e30, -1e30, 1e30, 1e30],
        ],
        device=device,
    )
    scores = torch.linspace(1, 0.3, 8, device=device)
    for method in METHODS:
        dets, keep = soft_nms(boxes, scores, method=method)
        assert sorted(keep.tolist()) == list(range(8))
        torch.testing.assert_close(dets[:, 4].sort(descending=True).values, scores)
    odd = torch.tensor([nan, 0.5, -inf, inf, -1.0, nan, 0.25, 0.125], device=device)
    assert soft_nms(torch.tensor([box], device=device) + torch.arange(8, device=device)[:, None] * 100, odd)[
        1
    ].tolist() == [
        3,
        1,
        6,
        7,
    ]
    for value in (nan, -inf):
        gone = soft_nms(boxes, torch.full((8,), value, device=device))
        assert gone[0].shape == (0, 5) and gone[1].shape == (0,)


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    images, results = [clustered(500) for _ in range(9)], []
    boxes, scores = (torch.stack(t).float() for t in zip(*images, strict=True))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(soft_nms_padded(boxes, scores, 300))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("fake", [False, True])
def test_bad_inputs(device: torch.device, fake: bool) -> None:
    where = torch.device("meta") if fake else device
    boxes, scores = torch.zeros(3, 4, device=where), torch.zeros(3, device=where)
    for args, kwargs, message in (
        ((boxes[:, :3], scores), {}, r"expected boxes of shape \(\*, 4\), got \(3, 3\)"),
        ((boxes, scores[:2]), {}, r"expected scores of shape \(3\), got \(2\)"),
        ((boxes.bool(), scores), {}, "expected boxes of a floating or integer dtype, got bool"),
        ((boxes, scores.bool()), {}, "expected scores of a floating or integer dtype, got bool"),
        ((boxes, scores), {"iou_threshold": math.nan}, "expected iou_threshold to be a number, got nan"),
        ((boxes, scores), {"sigma": 0.0}, "expected sigma above 0, got 0"),
        ((boxes, scores), {"sigma": math.nan}, "expected sigma above 0, got nan"),
        ((boxes, scores), {"min_score": math.nan}, "expected min_score to be a number, got nan"),
    ):
        with pytest.raises(RuntimeError, match="soft_nms: " + message):
            soft_nms(*args, **kwargs)
        with pytest.raises(RuntimeError, match="soft_nms_padded: " + message):
            soft_nms_padded(*args, 5, **kwargs)
    with pytest.raises(RuntimeError, match=r"soft_nms: expected boxes of shape \(\*, 4\), got \(1, 3, 4\)"):
        soft_nms(boxes[None], scores[None])
    with pytest.raises(RuntimeError, match="soft_nms_padded: expected max_output to be 0 or more, got -1"):
        soft_nms_padded(boxes, scores, -1)
    for function, extra in ((soft_nms, ()), (soft_nms_padded, (5,))):
        message = rf"{function.__name__}: expected method 'naive', 'linear' or 'gaussian', got 'hard'"
        with pytest.raises(ValueError, match=message):
            function(boxes, scores, *extra, method="hard")
