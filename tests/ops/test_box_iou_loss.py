import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

FUNCTIONS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
REDUCTIONS = ("none", "sum", "mean")
EPS = 1e-7


def boxes_on_a_grid(n: int, size: float = 64) -> Tensor:
    """Quarters of a pixel: exact in every dtype."""
    corners = torch.randint(0, int(2 * size), (n, 2)) / 4
    return torch.cat([corners, corners + torch.randint(1, int(2 * size), (n, 2)) / 4], dim=1).double()


def scattered(n: int) -> Tensor:
    """Boxes with no two edges alike, so that numeric derivatives exist."""
    return torch.rand(n, 4, dtype=torch.float64) + torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def reference(kind: str, a: list[float], b: list[float], eps: float) -> float:
    """One pair, in plain Python, from the papers' definitions."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    size_a, size_b = (a[2] - a[0], a[3] - a[1]), (b[2] - b[0], b[3] - b[1])
    union = math.prod(size_a) + math.prod(size_b) - w * h
    hull = (max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    if kind == "giou":
        return 1 - w * h / (union + eps) + (math.prod(hull) - union) / (math.prod(hull) + eps)
    of_distance = EPS if kind == "ciou" else eps
    iou = w * h / (union + of_distance)
    centre_a, centre_b = ((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2)
    loss = 1 - iou + math.dist(centre_a, centre_b) ** 2 / (hull[0] ** 2 + hull[1] ** 2 + of_distance)
    if kind == "diou":
        return loss
    v = 4 / math.pi**2 * (math.atan2(*size_a) - math.atan2(*size_b)) ** 2
    return loss + v / (1 - iou + v + eps) * v


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 3, 16, 33, 256, 300, 2049])
def test_matches_the_papers(device: torch.device, kind: str, n: int) -> None:
    a, b = boxes_on_a_grid(n), boxes_on_a_grid(n)
    for eps in (EPS, 1e-2):
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        each = torch.tensor([reference(kind, *pair, eps) for pair in pairs], dtype=torch.float64)
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            args = [t.to(device, dtype) for t in (a, b)]
            actual = FUNCTIONS[kind](*args, eps=eps)
            assert actual.dtype == dtype and actual.shape == (n,)
            torch.testing.assert_close(actual.double().cpu(), each, rtol=tolerance, atol=tolerance)
            for reduction, expected in (("sum", each.sum()), ("mean", each.mean())):
                actual = FUNCTIONS[kind](*args, reduction, eps)
                torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)


def test_by_hand(device: torch.device) -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device).expand(4, 4)
    b = torch.tensor(
        [[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], [0.0, 0.0, 1.0, 2.0]], device=device
    )
    close = {"rtol": 0, "atol": 1e-6}
    expected = torch.tensor([1 - 1 / 7 + 2 / 9, 0.0, 1.0, 0.5])
    torch.testing.assert_close(generalized_box_iou_loss(a, b).cpu(), expected, **close)
    expected = torch.tensor([1 - 1 / 7 + 2 / 18, 0.0, 1 + 4 / 20, 0.5 + 0.25 / 8])
    torch.testing.assert_close(distance_box_iou_loss(a, b).cpu(), expected, **close)
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    expected[3] += v * v / (0.5 + v)
    torch.testing.assert_close(complete_box_iou_loss(a, b).cpu(), expected, **close)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("eps", [EPS, 1e-3])
def test_agrees_with_torchvision(device: torch.device, kind: str, reduction: str, eps: float) -> None:
    """Values, gradients in both sets and dtypes; on a grid many edges tie."""
    peer = getattr(
        pytest.importorskip("torchvision", reason="torchvision is not installed").ops, FUNCTIONS[kind].__name__
    )
    a, b = boxes_on_a_grid(500), boxes_on_a_grid(500)
    shared = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    a, b = (boxes[(shared != 0).all(1)] for boxes in (a, b))  # where boxes touch, versions of torch differ
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        ours = [boxes.to(device, dtype).requires_grad_() for boxes in (a, b)]
        theirs = [boxes.to(device, dtype).requires_grad_() for boxes in (a, b)]
        actual, expected = FUNCTIONS[kind](*ours, reduction, eps), peer(*theirs, reduction, eps)
        assert actual.dtype == expected.dtype
        tolerance = 1e-10 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        grad = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype, device=device).view_as(expected)
        gradients = (torch.autograd.grad(loss, boxes, grad) for loss, boxes in ((actual, ours), (expected, theirs)))
        tolerance = max(tolerance, torch.finfo(dtype).eps)
        for a_grad, e_grad in zip(*gradients, strict=True):
            assert a_grad.dtype == dtype
            torch.testing.assert_close(a_grad, e_grad, rtol=10 * tolerance, atol=tolerance)
    if reduction == "none":
        integers = [(boxes * 4).long().to(device) for boxes in (a, b)]
        actual, expected = FUNCTIONS[kind](*integers), peer(*integers)
        assert actual.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["giou", "diou"])
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, kind: str, reduction: str) -> None:
    samples = [
        Sample((scattered(5).round(decimals=2), scattered(5), reduction), differentiable=(0, 1)),
        Sample((scattered(6).view(2, 3, 4), scattered(3), reduction), differentiable=(0, 1)),
        Sample((scattered(1)[0], scattered(1)[0], reduction), differentiable=(0,)),
        Sample((torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, 4, dtype=torch.float64), reduction)),
    ]
    check_operator(FUNCTIONS[kind], samples, device, tolerance=16, second_derivative=True)
    if reduction != "none":
        args = (scattered(5).to(device), scattered(5).to(device), 1 if kind == "giou" else 2, EPS, 1)
        torch.library.opcheck(torch.ops.detops.box_iou_loss_with_gradient.default, args)


@pytest.mark.one_instruction_set
def test_complete_operator(device: torch.device) -> None:
    """Apart from the numeric derivative: the trade-off factor counts as a constant."""
    check_operator(complete_box_iou_loss, [Sample((scattered(5), scattered(5)))], device, tolerance=32)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_second_derivative_agrees_with_torchvision(device: torch.device, kind: str) -> None:
    name = FUNCTIONS[kind].__name__
    peer = getattr(pytest.importorskip("torchvision", reason="torchvision is not installed").ops, name)
    a, b, direction = scattered(40), scattered(40), torch.randn(40, 4, dtype=torch.float64).to(device)
    seconds = []
    for function in (FUNCTIONS[kind], peer):
        leaves = [boxes.to(device).requires_grad_() for boxes in (a, b)]
        (first,) = torch.autograd.grad(function(*leaves, "sum"), leaves[0], create_graph=True)
        seconds.append(torch.autograd.grad((first * direction).sum(), leaves))
    for actual, expected in zip(*seconds, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_zero_area(device: torch.device, kind: str) -> None:
    """Finite losses and gradients, whichever box has no area."""
    flat = [[1.0, 1, 1, 1], [0, 0, 2, 0], [0, 0, 0, 2], [0, 0, 2, 2], [5, 5, 5, 5]]
    boxes = torch.tensor(flat, device=device)
    a, b = boxes.repeat_interleave(5, 0).requires_grad_(), boxes.repeat(5, 1).requires_grad_()
    for eps in (EPS, 0.0):
        loss = FUNCTIONS[kind](a, b, eps=eps)
        assert loss.isfinite().all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss.sum(), (a, b)))


def test_torchvision_gives_nan_for_boxes_of_no_area() -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.complete_box_iou_loss
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    for box in ([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 1.0]):  # a point; a line, where the loss is a number
        leaf = torch.tensor([box], requires_grad=True)
        assert torch.autograd.grad(peer(leaf, target, "sum"), leaf)[0].isnan().any()
        loss = complete_box_iou_loss(leaf, target, "sum")
        (grad,) = torch.autograd.grad(loss, leaf)
        assert loss.isfinite() and grad.isfinite().all()


def test_values_without_meaning(device: torch.device) -> None:
    """No value crashes; NaN stays visible."""
    inf = math.inf
    odd = [[math.nan] * 4, [-inf, -inf, inf, inf], [1e30, 1e30, 2e30, 2e30], [5.0, 5.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0]]
    boxes = torch.tensor(odd, device=device)
    a, b = boxes.repeat_interleave(5, 0).requires_grad_(), boxes.repeat(5, 1)
    for function in FUNCTIONS.values():
        loss = function(a, b)
        torch.autograd.grad(loss.sum(), a)
        assert loss[:5].isnan().all() and loss[::5].isnan().all()
        assert loss[24] == 0


def test_shapes(device: torch.device) -> None:
    """As torchvision: any leading dimensions, which broadcast."""
    a, b = boxes_on_a_grid(6).to(device), boxes_on_a_grid(3).to(device)
    for kind, function in FUNCTIONS.items():
        expected = function(a, b.repeat(2, 1))
        assert_equal(function(a.view(2, 3, 4), b), expected.view(2, 3))
        torch.testing.assert_close(function(b, a.view(2, 3, 4)), expected.view(2, 3))
        assert_equal(function(a[0], b[0]), expected[0])
        assert_equal(function(a[:3], b[0]), function(a[:3], b[:1].expand(3, 4)))
        leaf = b[:1].clone().requires_grad_()
        assert torch.autograd.grad(function(a, leaf, "sum"), leaf)[0].shape == (1, 4), kind


def test_empty(device: torch.device) -> None:
    """The mean of none is 0, as torchvision's."""
    for function in FUNCTIONS.values():
        leaf = torch.zeros(0, 4, device=device, requires_grad=True)
        for reduction in ("mean", "sum"):
            loss = function(leaf, leaf.detach(), reduction)
            assert loss.item() == 0 and torch.autograd.grad(loss, leaf)[0].shape == (0, 4)
        assert function(leaf, leaf).shape == (0,)
        assert function(leaf.view(3, 0, 4), leaf.view(3, 0, 4)).shape == (3, 0)


def test_mixed_dtypes(device: torch.device) -> None:
    a, b = boxes_on_a_grid(30).to(device), boxes_on_a_grid(30).to(device)
    for function in FUNCTIONS.values():
        expected = function(a.float(), b.float())
        assert_equal(function(a.half(), b.float()), expected)
        assert function(a, b.float()).dtype == torch.float64
        leaf = a.half().requires_grad_()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = function(leaf, b.float())
        assert_equal(loss.detach(), expected)
        assert torch.autograd.grad(loss.sum(), leaf)[0].dtype == torch.float16


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_retained_graph(device: torch.device, kind: str, factor: float) -> None:
    """The gradient that the forward pass wrote is handed out once, and is that of a pass of its own."""
    for dtype in (torch.float32, torch.float16):
        leaf, target = boxes_on_a_grid(300).to(device, dtype).requires_grad_(), boxes_on_a_grid(300).to(device, dtype)
        loss = FUNCTIONS[kind](leaf, target, "mean")
        grad = torch.full_like(loss, factor)
        (first,) = torch.autograd.grad(loss, leaf, grad, retain_graph=True)
        kept = first.clone()
        (second,) = torch.autograd.grad(loss, leaf, grad, retain_graph=True)
        assert first.dtype == second.dtype == dtype
        torch.testing.assert_close(second, kept)
        second.zero_()
        assert_equal(first, kept)


corner = st.integers(-400, 400).map(lambda q: q / 4)
side = st.integers(1, 400).map(lambda q: q / 4)
box = st.tuples(corner, corner, side, side).map(lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]])
pairs = st.lists(st.tuples(box, box), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
@given(pairs, st.integers(-64, 64))
def test_invariants(pairs: list[tuple[list[float], list[float]]], shift: int) -> None:
    """Symmetric, 0 for equal boxes, the same after a shift, between 0 and the kind's largest."""
    a, b = (torch.tensor(boxes, dtype=torch.float64) for boxes in zip(*pairs, strict=True))
    for kind, function in FUNCTIONS.items():
        loss = function(a, b)
        torch.testing.assert_close(function(b, a), loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(function(a + shift, b + shift), loss, rtol=0, atol=1e-9)
        torch.testing.assert_close(function(a, a), torch.zeros(len(a), dtype=torch.float64), rtol=0, atol=1e-5)
        assert (loss >= 0).all() and (loss <= (3 if kind == "ciou" else 2)).all()
    assert (complete_box_iou_loss(a, b) >= distance_box_iou_loss(a, b)).all()


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    a, b = boxes_on_a_grid(200_000).float(), boxes_on_a_grid(200_000).float()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = a.clone().requires_grad_()
            loss = complete_box_iou_loss(leaf, b, "sum")
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a[:, :3], a[:, :3]), r"expected boxes1 of shape \(\*, 4\), got \(5, 3\)"),
        (lambda a: (a, a[:3]), r"expected boxes2 of shape \(5, 4\), got \(3, 4\)"),
        (lambda a: (a, a.bool()), r"expected boxes2 of a floating or integer dtype, got bool"),
        (lambda a: (a.bool(), a), r"expected boxes1 of a floating or integer dtype, got bool"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    bad = make(boxes_on_a_grid(5).to(device))
    for function in FUNCTIONS.values():
        with pytest.raises(RuntimeError, match=f"^{function.__name__}: {message}") as eager:
            function(*bad)
        with pytest.raises(RuntimeError) as traced:
            function(*(t.to("meta") for t in bad))
        assert str(traced.value) == str(eager.value)


def test_devices_differ(device: torch.device) -> None:
    boxes = boxes_on_a_grid(5).to(device)
    with pytest.raises(RuntimeError, match=r"generalized_box_iou_loss: expected boxes2 on the device of boxes1, .*"):
        generalized_box_iou_loss(boxes, boxes.to("meta"))


def test_unknown_reduction() -> None:
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match=f"{function.__name__}: expected reduction 'mean', 'sum' or 'none', got"):
            function(torch.ones(1, 4), torch.ones(1, 4), "max")
