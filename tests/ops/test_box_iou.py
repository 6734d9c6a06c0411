import math

import pytest
import torch
from checks import Sample, check_operator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou

FUNCTIONS = {
    "iou": box_iou,
    "giou": generalized_box_iou,
    "diou": distance_box_iou,
    "ciou": complete_box_iou,
}
EPS = 1e-7


def random_boxes(n: int, size: float = 64) -> Tensor:
    """Boxes on a grid of quarters of a pixel: exact in every dtype."""
    corners = torch.randint(0, int(2 * size), (n, 2)) / 4
    return torch.cat([corners, corners + torch.randint(1, int(2 * size), (n, 2)) / 4], dim=1).double()


def reference(kind: str, a: list[float], b: list[float]) -> float:
    """One pair, in plain Python, from the papers' definitions."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    intersection = w * h
    size_a, size_b = (a[2] - a[0], a[3] - a[1]), (b[2] - b[0], b[3] - b[1])
    union = math.prod(size_a) + math.prod(size_b) - intersection
    iou = intersection / union if union else 0.0
    hull = (max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    if kind == "iou":
        return iou
    if kind == "giou":
        return iou - (math.prod(hull) - union) / math.prod(hull) if math.prod(hull) else iou
    centre_a, centre_b = ((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2)
    diou = iou - math.dist(centre_a, centre_b) ** 2 / (hull[0] ** 2 + hull[1] ** 2 + EPS)
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (math.atan2(*size_a) - math.atan2(*size_b)) ** 2
    return diou - v / (1 - iou + v + EPS) * v


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (5, 17), (33, 16), (70, 129), (9, 520)])
def test_matches_the_paper(device: torch.device, kind: str, sizes: tuple[int, int]) -> None:
    boxes1, boxes2 = random_boxes(sizes[0]), random_boxes(sizes[1])
    expected = torch.tensor([[reference(kind, a, b) for b in boxes2.tolist()] for a in boxes1.tolist()])
    actual = FUNCTIONS[kind](boxes1.to(device), boxes2.to(device))
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual.cpu(), expected.double(), rtol=1e-6, atol=1e-6)
    actual = FUNCTIONS[kind](boxes1.float().to(device), boxes2.float().to(device))
    torch.testing.assert_close(actual.cpu(), expected.float(), rtol=1e-5, atol=1e-6)


def test_by_hand(device: torch.device) -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device)
    b = torch.tensor(
        [[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], [0.0, 0.0, 1.0, 2.0]], device=device
    )
    torch.testing.assert_close(box_iou(a, b).cpu(), torch.tensor([[1 / 7, 1.0, 0.0, 0.5]]))
    torch.testing.assert_close(generalized_box_iou(a, b).cpu(), torch.tensor([[1 / 7 - 2 / 9, 1.0, 0.0, 0.5]]))
    torch.testing.assert_close(
        distance_box_iou(a, b).cpu(), torch.tensor([[1 / 7 - 2 / 18, 1.0, -4 / 20, 0.5 - 0.25 / 8]])
    )


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_agrees_with_torchvision(device: torch.device, kind: str) -> None:
    peer = getattr(
        pytest.importorskip("torchvision", reason="torchvision is not installed").ops, FUNCTIONS[kind].__name__
    )
    for dtype in (torch.float32, torch.float64, torch.int64):
        boxes1, boxes2 = ((random_boxes(n) * 4).to(dtype) for n in (50, 37))
        actual, expected = FUNCTIONS[kind](boxes1.to(device), boxes2.to(device)).cpu(), peer(boxes1, boxes2)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        if kind != "ciou" and dtype != torch.int64:  # but for the arctangent every bit is torchvision's
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_gradient_agrees_with_torchvision(device: torch.device, kind: str) -> None:
    peer = getattr(
        pytest.importorskip("torchvision", reason="torchvision is not installed").ops, FUNCTIONS[kind].__name__
    )
    boxes1, boxes2 = random_boxes(40), random_boxes(30)  # on a grid: many ties of edges
    shared = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    touching = (shared == 0).any(dim=-1)  # a corner of the function: versions of torch differ in its derivative there
    grad = torch.randn(40, 30, dtype=torch.float64).masked_fill(touching, 0)
    leaves = [boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()]
    expected = torch.autograd.grad(peer(*leaves), leaves, grad)
    leaves = [boxes1.to(device).requires_grad_(), boxes2.to(device).requires_grad_()]
    actual = torch.autograd.grad(FUNCTIONS[kind](*leaves), leaves, grad.to(device))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("sizes", [(600, 16), (70, 129), (2, 700)])
def test_gradient_of_many_is_the_sum_of_few(device: torch.device, kind: str, sizes: tuple[int, int]) -> None:
    boxes1, boxes2 = random_boxes(sizes[0]).to(device), random_boxes(sizes[1]).to(device)
    grad = torch.randn(2, *sizes, dtype=torch.float64, device=device)  # two images with the same boxes

    def gradients(a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
        return torch.autograd.grad(FUNCTIONS[kind](*leaves), leaves, grad)

    actual = gradients(boxes1.expand(2, -1, -1), boxes2.expand(2, -1, -1), grad)
    for i in (0, sizes[0] - 1):
        expected, _ = gradients(boxes1[i : i + 1], boxes2, grad[1, i : i + 1])
        torch.testing.assert_close(actual[0][1, i : i + 1], expected)
    for j in (0, sizes[1] - 1):
        _, expected = gradients(boxes1, boxes2[j : j + 1], grad[1, :, j : j + 1])
        torch.testing.assert_close(actual[1][1, j : j + 1], expected)


def scattered(n: int) -> Tensor:
    """Boxes with no two edges alike, so that numeric derivatives exist."""
    return torch.rand(n, 4, dtype=torch.float64) + torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, kind: str) -> None:
    samples = [
        Sample((scattered(5).round(decimals=2), scattered(3)), differentiable=(0, 1)),
        Sample((scattered(2).expand(3, 2, 4).clone(), scattered(12).view(3, 4, 4)), differentiable=(0, 1)),
        Sample((torch.zeros(0, 4), scattered(3)), differentiable=(0, 1)),
        Sample((scattered(3), torch.zeros(0, 4, dtype=torch.float64)), differentiable=(0, 1)),
    ]
    check_operator(FUNCTIONS[kind], samples, device, tolerance=8)


@pytest.mark.one_instruction_set
def test_complete_operator(device: torch.device) -> None:
    """Apart from the numeric derivative: the trade-off factor counts as a constant."""
    check_operator(complete_box_iou, [Sample((scattered(5), scattered(3)))], device, tolerance=16)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_zero_area(device: torch.device, kind: str) -> None:
    boxes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 0], [0, 0, 0, 2], [0, 0, 2, 2]], device=device)
    boxes.requires_grad_()
    score = FUNCTIONS[kind](boxes, boxes)
    (grad,) = torch.autograd.grad(score.sum(), boxes)
    assert score.isfinite().all() and grad.isfinite().all()
    assert (box_iou(boxes, boxes)[:4, :4] == 0).all()


def test_values_without_meaning(device: torch.device) -> None:
    """No value crashes; NaN stays visible, a reversed box overlaps nothing."""
    inf = math.inf
    odd = [[math.nan] * 4, [-inf, -inf, inf, inf], [1e30, 1e30, 2e30, 2e30], [5.0, 5.0, 1.0, 1.0], [inf, 0, inf, 1]]
    boxes = torch.tensor([*odd, [0.0, 0.0, 4.0, 4.0]], device=device)
    for function in FUNCTIONS.values():
        function(boxes, boxes)
    iou = box_iou(boxes, boxes)
    assert iou[0].isnan().all() and iou[5, 3] == 0 and iou[5, 5] == 1 and iou[2, 5] == 0


def test_formats(device: torch.device) -> None:
    xywh = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, 4.0]], device=device)
    cxcywh = torch.tensor([[2.5, 4.0, 3.0, 4.0], [1.0, 2.0, 2.0, 4.0]], device=device)
    xyxy = torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 2.0, 4.0]], device=device)
    assert torch.equal(box_iou(xywh, xywh, fmt="xywh"), box_iou(xyxy, xyxy))
    assert torch.equal(box_iou(cxcywh, cxcywh, fmt="cxcywh"), box_iou(xyxy, xyxy))


def test_leading_dimensions_broadcast(device: torch.device) -> None:
    boxes1, boxes2 = random_boxes(6).view(2, 1, 3, 4).to(device), random_boxes(20).view(5, 4, 4).to(device)
    actual = box_iou(boxes1, boxes2)
    assert actual.shape == (2, 5, 3, 4)
    assert torch.equal(actual[1, 3], box_iou(boxes1[1, 0], boxes2[3]))


def test_mixed_dtypes(device: torch.device) -> None:
    half, single = random_boxes(4).half().to(device), random_boxes(5).float().to(device)
    assert torch.equal(box_iou(half, single), box_iou(half.float(), single))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(box_iou(single, single), box_iou(single.double(), single.double()).float())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a[:, :3], a), r"expected boxes1 of shape \(\*, 4\), got \(5, 3\)"),
        (lambda a: (a, a[0]), r"expected boxes2 of shape \(\*, 4\), got \(4\)"),
        (lambda a: (a, a.bool()), r"expected boxes2 of a floating or integer dtype, got bool"),
        (lambda a: (a.to(torch.complex64), a), r"expected boxes1 of a floating or integer dtype, got"),
        (lambda a: (a, a.to("meta")), r"expected boxes2 on the device of boxes1, .*, got"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    boxes = random_boxes(5).to(device)
    for function in FUNCTIONS.values():
        with pytest.raises(RuntimeError, match=f"^{function.__name__}: {message}"):
            function(*make(boxes))


def test_traced_programs_say_the_same() -> None:
    for bad in ((torch.ones(2, 3), torch.ones(2, 4)), (torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool))):
        with pytest.raises(RuntimeError) as eager:
            box_iou(*bad)
        with pytest.raises(RuntimeError) as traced:
            box_iou(*(t.to("meta") for t in bad))
        assert str(traced.value) == str(eager.value)


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match=r"box_iou: expected fmt one of \('xyxy', .*\), got 'yolo'"):
        box_iou(torch.ones(1, 4), torch.ones(1, 4), fmt="yolo")


corner = st.integers(-400, 400).map(lambda q: q / 4)
side = st.integers(1, 400).map(lambda q: q / 4)
box = st.tuples(corner, corner, side, side).map(lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]])
box_lists = st.lists(box, min_size=1, max_size=40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(box_lists, st.integers(-64, 64), st.integers(-3, 3))
def test_invariants(device: torch.device, boxes: list[list[float]], shift: int, exponent: int) -> None:
    """In [0, 1], 1 on itself, symmetric, and the same after a shift or a scaling that rounds nothing."""
    a = torch.tensor(boxes, device=device)
    for kind, function in FUNCTIONS.items():
        score = function(a, a)
        tolerance = 0 if kind in ("iou", "giou", "diou") else 1e-6
        torch.testing.assert_close(score, score.T, rtol=0, atol=tolerance)
        torch.testing.assert_close(score.diagonal(), torch.ones(len(a), device=device), rtol=0, atol=1e-6)
        assert (score <= 1).all()
        assert (score >= {"iou": 0, "giou": -1, "diou": -1, "ciou": -2}[kind]).all()
        if kind in ("iou", "giou"):
            assert torch.equal(function(a + shift, a + shift), score)
            assert torch.equal(function(a * 2.0**exponent, a * 2.0**exponent), score)
    assert (generalized_box_iou(a, a) <= box_iou(a, a)).all()


@pytest.mark.threads
def test_threads(device: torch.device) -> None:
    """Scores do not depend on the number of threads, nor gradients on the run."""
    boxes1, boxes2 = random_boxes(3000).float().to(device), random_boxes(700).float().to(device).requires_grad_()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2, 4):
            torch.set_num_threads(threads)
            score = complete_box_iou(boxes1, boxes2)
            results.append((score.detach(), *torch.autograd.grad(score.sum(), boxes2)))
        for score, grad in results[1:]:
            assert torch.equal(score, results[0][0])
            torch.testing.assert_close(grad, results[0][1], rtol=1e-4, atol=1e-4)
        assert torch.equal(results[1][1], results[2][1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.large
def test_more_than_two_to_the_31_scores() -> None:
    """8.6 GB."""
    boxes1, boxes2 = random_boxes(46_400).float(), random_boxes(46_400).float()
    score = box_iou(boxes1, boxes2)
    assert score.numel() > 2**31
    assert torch.equal(score[-50:, -70:], box_iou(boxes1[-50:], boxes2[-70:]))


def test_empty_batches(device: torch.device) -> None:
    for shapes in (((2, 0, 4), (2, 3, 4)), ((0, 2, 4), (0, 3, 4)), ((0, 1, 2, 4), (5, 3, 4)), ((2, 0, 4), (0, 4))):
        boxes1, boxes2 = (torch.zeros(shape, device=device) for shape in shapes)
        batch = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
        assert box_iou(boxes1, boxes2).shape == (*batch, boxes1.shape[-2], boxes2.shape[-2])


@pytest.mark.one_instruction_set
def test_no_second_derivative(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 6, 5]], device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(box_iou(boxes, boxes.detach()).sum(), boxes, create_graph=True)
    with pytest.raises(RuntimeError, match="box_iou: expected to be differentiated once, got a second derivative"):
        grad.sum().backward()
