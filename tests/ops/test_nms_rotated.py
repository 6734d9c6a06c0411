import math

import pytest
import torch
from checks import Sample, check_operator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rotated import exact_overlap, random_rotated
from torch import Tensor

from detops.ops import box_iou_rotated, nms, nms_rotated, nms_rotated_padded

INF, NAN = math.inf, math.nan


def reference(
    dets: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None, clockwise: bool = True
) -> list[int]:
    """Greedy suppression in plain Python, from the matrix of overlaps, which has tests of its own."""
    above = box_iou_rotated(dets, dets, clockwise=clockwise).double() > threshold
    if labels is not None:
        above &= labels[:, None] == labels
    keep: list[int] = []
    for i in torch.sort(scores, stable=True, descending=True).indices.tolist():
        if not above[i, keep].any():
            keep.append(i)
    return keep


def clusters(n: int, objects: int = 12, extent: float = 300) -> Tensor:
    """Boxes jittered round objects of many sizes and angles."""
    object_of = torch.randint(objects, (n,))
    boxes = random_rotated(objects, extent, 120)[object_of]
    boxes[:, :2] += torch.randn(n, 2) * boxes[:, 2:4] * 0.15
    boxes[:, 2:4] *= torch.exp(0.2 * torch.randn(n, 2))
    boxes[:, 4] += 0.2 * torch.randn(n)
    return boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("n", [1, 2, 17, 64, 65, 300])
def test_matches_the_definition(device: torch.device, dtype: torch.dtype, n: int) -> None:
    dets, scores = clusters(n).to(dtype), torch.rand(n).round(decimals=2)
    for threshold in (0.0, 0.1, 0.5, 0.9):
        kept, keep = nms_rotated(dets.to(device), scores.to(device), threshold)
        assert keep.dtype == torch.int64 and keep.device.type == device.type
        assert keep.tolist() == reference(dets, scores, threshold)
        expected = torch.cat([dets[keep.cpu()], scores[keep.cpu(), None]], dim=1)
        assert torch.equal(kept.cpu(), expected)


def test_exact_overlaps_decide(device: torch.device) -> None:
    """Of two boxes, the second goes if and only if rational arithmetic says so."""
    for a, b in zip(clusters(40), clusters(40, objects=1, extent=50), strict=True):
        b = torch.where(torch.rand(()) < 0.5, b, a + torch.randn(5) * a * 0.05)
        overlap = exact_overlap(a, b)
        for threshold in (0.3, 0.7):
            if abs(overlap - threshold) > 1e-6:
                _, keep = nms_rotated(
                    torch.stack([a, b]).to(device), torch.tensor([0.9, 0.1], device=device), threshold
                )
                assert len(keep) == (1 if overlap > threshold else 2)


@pytest.mark.parametrize("threshold", [0.5, 0.25, 0.6, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties(device: torch.device, threshold: float, dtype: torch.dtype) -> None:
    """Where the overlap is the threshold, its quotient in the boxes' precision decides, as for upright boxes."""
    dets = torch.tensor([[50, 50, 100, 100, 0], [50 * threshold, 50, 100 * threshold, 100, 0]], dtype=dtype)
    scores = torch.tensor([0.9, 0.8])
    upright = torch.cat([dets[:, :2] - dets[:, 2:4] / 2, dets[:, :2] + dets[:, 2:4] / 2], dim=1)
    _, keep = nms_rotated(dets.to(device), scores.to(device), threshold)
    assert torch.equal(keep.cpu(), nms(upright, scores, threshold))


def test_labels(device: torch.device) -> None:
    dets, scores = clusters(200), torch.rand(200).round(decimals=2)
    for labels in (torch.randint(0, 4, (200,)), torch.randint(0, 4, (200,)) * 2**40, torch.randint(0, 3, (200,)) / 2):
        _, keep = nms_rotated(dets.to(device), scores.to(device), 0.3, labels.to(device))
        assert keep.tolist() == reference(dets, scores, 0.3, labels)


def test_sense_of_the_angle(device: torch.device) -> None:
    dets, scores = clusters(100), torch.rand(100)
    _, keep = nms_rotated(dets.to(device), scores.to(device), 0.2, clockwise=False)
    assert keep.tolist() == reference(dets, scores, 0.2, clockwise=False)
    assert keep.tolist() != reference(dets, scores, 0.2)


def test_padded(device: torch.device) -> None:
    dets = torch.stack([clusters(150), clusters(150)])
    scores, labels = torch.rand(2, 150), torch.randint(0, 3, (2, 150))
    placed = dets.to(device), scores.to(device)
    for most in (0, 5, 150, 200):
        keep, count = nms_rotated_padded(*placed, 0.3, most, labels.to(device))
        for image in range(2):
            expected = reference(dets[image], scores[image], 0.3, labels[image])[:most]
            assert keep[image].tolist() == expected + [-1] * (most - len(expected))
            assert count[image] == len(expected)
    keep, count = nms_rotated_padded(placed[0][0], placed[1][0], 0.3, 150, score_threshold=0.5)
    expected = [i for i in reference(dets[0], scores[0], 0.3) if scores[0, i] > 0.5]
    assert keep.shape == (150,) and keep[: len(expected)].tolist() == expected and count == len(expected)


def test_values_without_meaning(device: torch.device) -> None:
    """Boxes that overlap none neither drop others nor are dropped; NaN scores come first."""
    good = [5.0, 5, 4, 4, 0.3]
    odd = [[NAN, 5, 4, 4, 0], [5, 5, INF, 4, 0], [5, 5, 0, 4, 0], [5, 5, 4, -4, 0], [5, 5, 4, 4, NAN]]
    dets = torch.tensor([good, *odd, good, good], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, NAN], device=device)
    for threshold in (0.0, 0.5, -0.5):
        _, keep = nms_rotated(dets, scores, threshold)
        assert keep.tolist() == [7, 1, 2, 3, 4, 5]
    for threshold in (1.0, 2.0, INF):
        assert len(nms_rotated(dets, scores, threshold)[1]) == len(dets)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    dets = (clusters(30) * 8).round().double() / 8
    dets[:, 2:4] += 1
    scores = torch.arange(30.0).double() / 32
    samples = [
        Sample((dets, scores, 0.3), castable=(0,), differentiable=(0,)),
        Sample((dets, scores, 0.3, torch.arange(30) % 3), castable=(0,)),
        Sample((torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0), 0.3), castable=(0,)),
    ]
    check_operator(lambda *args: nms_rotated(*args)[1], samples[1:], device, dtypes=(torch.float64, torch.float32))
    check_operator(nms_rotated, samples[:1], device, dtypes=(torch.float64, torch.float32))
    padded = [Sample((dets, scores, 0.3, 20), castable=(0,)), Sample((dets[None], scores[None], 0.3, 0), castable=(0,))]
    check_operator(nms_rotated_padded, padded, device, dtypes=(torch.float64, torch.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, s: (d[:, :4], s, 0.5), r"expected dets of shape \(\*, 5\), got \(5, 4\)"),
        (lambda d, s: (d, s[:3], 0.5), r"expected scores of shape \(5\), got \(3\)"),
        (lambda d, s: (d, s, 0.5, s[:2]), r"expected labels of shape \(5\), got \(2\)"),
        (lambda d, s: (d, s.bool(), 0.5), r"expected scores of a floating or integer dtype, got bool"),
        (lambda d, s: (d, s, NAN), r"expected iou_threshold to be a number, got nan"),
        (lambda d, s: (d, s.to("meta"), 0.5), r"expected scores on the device of dets, .*, got"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    args = make(random_rotated(5).to(device), torch.rand(5).to(device))
    with pytest.raises(RuntimeError, match=f"^nms_rotated: {message}"):
        nms_rotated(*args)
    with pytest.raises(RuntimeError, match=f"^nms_rotated_padded: {message}"):
        nms_rotated_padded(*args[:3], 3, *args[3:])


def test_says_what_is_wrong_with_numbers(device: torch.device) -> None:
    dets, scores = random_rotated(5).to(device), torch.rand(5).to(device)
    with pytest.raises(RuntimeError, match="nms_rotated_padded: expected max_output to be 0 or more, got -1"):
        nms_rotated_padded(dets, scores, 0.5, -1)
    with pytest.raises(RuntimeError, match="nms_rotated_padded: expected score_threshold to be a number, got nan"):
        nms_rotated_padded(dets, scores, 0.5, 3, score_threshold=NAN)


number = st.integers(-64, 64).map(lambda q: q / 4)
side = st.integers(1, 64).map(lambda q: q / 4)
det = st.tuples(number, number, side, side, st.integers(-8, 8).map(lambda q: q * math.pi / 8)).map(list)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(det, min_size=1, max_size=70), st.sampled_from([0.0, 0.2, 0.5, 0.8]))
def test_invariants(device: torch.device, boxes: list[list[float]], threshold: float) -> None:
    """None of those kept overlaps another too much, each of the others overlaps one before it, and twice is once."""
    dets = torch.tensor(boxes)
    scores = torch.arange(len(dets), 0, -1).float()
    _, keep = nms_rotated(dets.to(device), scores.to(device), threshold)
    keep = keep.cpu()
    above = box_iou_rotated(dets, dets) > torch.tensor(threshold, dtype=torch.float64)
    assert not above[keep][:, keep].fill_diagonal_(False).any()
    for i in sorted(set(range(len(dets))) - set(keep.tolist())):
        assert above[i, keep[keep < i]].any()
    assert len(nms_rotated(dets[keep].to(device), scores[keep].to(device), threshold)[1]) == len(keep)


@pytest.mark.threads
def test_threads(device: torch.device) -> None:
    dets, scores, labels = clusters(8000, 300, 3000).to(device), torch.rand(8000).to(device), torch.arange(8000) % 20
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(nms_rotated(dets, scores, 0.3, labels.to(device))[1])
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(before)
