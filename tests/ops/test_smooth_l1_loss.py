import math
import sys

import pytest
import torch
import torch.nn.functional as F
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import smooth_l1_loss

MODULE = sys.modules[smooth_l1_loss.__module__]
REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture(autouse=True)
def _own_kernels_for_small_inputs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.originalname != "test_small_inputs_agree_with_large_ones":
        monkeypatch.setattr(MODULE, "_SMALL", -1)


def numbers(*shape: int) -> Tensor:
    """Eighths, exact in every dtype, none at the border between the two branches for beta = 1 or 0.1875."""
    return (torch.randint(-24, 25, shape) / 8).double()


def reference(predicted: Tensor, target: Tensor, beta: float, reduction: str, weight: Tensor | None = None) -> Tensor:
    """Element by element in plain Python."""

    def loss(x: float, y: float, w: float) -> float:
        d = abs(x - y)
        return w * (0.5 * d * d / beta if d < beta else d - 0.5 * beta)

    weights = torch.ones_like(predicted) if weight is None else weight.double().expand(predicted.shape)
    each = [loss(*values) for values in zip(*(t.flatten().tolist() for t in (predicted, target, weights)), strict=True)]
    if reduction == "none":
        return torch.tensor(each, dtype=torch.float64).view(predicted.shape)
    return torch.tensor(math.fsum(each) / (len(each) if reduction == "mean" else 1), dtype=torch.float64)


SHAPES = [(1,), (7,), (64,), (1024, 1), (3, 5), (2, 3, 4, 5), (1025, 4), (90, 91), (4096, 4), (8193, 2)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(device: torch.device, shape: tuple[int, ...], reduction: str) -> None:
    predicted, target = numbers(*shape), numbers(*shape)
    for beta in (1.0, 0.1875, 0.0, 2.5):
        for weight in (None, torch.rand(shape), torch.rand(*shape[:-1], 1), torch.rand(())):
            expected = reference(predicted, target, beta, reduction, weight)
            for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
                args = (t.to(device, dtype) for t in (predicted, target))
                actual = smooth_l1_loss(*args, beta, reduction, None if weight is None else weight.to(device))
                assert actual.dtype == dtype
                torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=1e-7)


def test_by_hand(device: torch.device) -> None:
    predicted, target = (
        torch.tensor([0.0, 1.0, 3.0, -2.0], device=device),
        torch.tensor([0.0, 0.5, 1.0, 1.0], device=device),
    )
    assert smooth_l1_loss(predicted, target, reduction="none").tolist() == [0, 0.125, 1.5, 2.5]
    assert smooth_l1_loss(predicted, target, 2.0, "none").tolist() == [0, 0.0625, 1, 2]
    assert smooth_l1_loss(predicted, target, 0.0, "none").tolist() == [0, 0.5, 2, 3]
    assert smooth_l1_loss(predicted, target, weight=torch.tensor([1.0, 8, 2, 0], device=device)).item() == 1.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_agrees_with_torch(device: torch.device, dtype: torch.dtype, beta: float, reduction: str) -> None:
    predicted, target = (numbers(130, 17).to(device, dtype).requires_grad_() for _ in range(2))
    actual, expected = (
        f(predicted, target, beta=beta, reduction=reduction) for f in (smooth_l1_loss, F.smooth_l1_loss)
    )
    torch.testing.assert_close(actual, expected)
    grad = torch.linspace(-1, 1, expected.numel(), dtype=dtype, device=device).view_as(expected)
    for a, e in zip(*(torch.autograd.grad(t, (predicted, target), grad) for t in (actual, expected)), strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [math.inf, 2.0, 1 / 9, 1e-3, 1e-5, 0.0])
def test_small_inputs_agree_with_large_ones(
    device: torch.device, beta: float, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small inputs may go another way, which must not show."""
    odd = torch.tensor([0.0, -0.0, 1e30, -1e30, math.inf, -math.inf, math.nan], dtype=torch.float64)
    values = odd.expand(7, 7) if reduction == "none" else numbers(7, 7)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, y = values.to(device, dtype).clone(), values.to(device, dtype).t().clone()
        results = []
        for small in (MODULE._SMALL, -1):
            monkeypatch.setattr(MODULE, "_SMALL", small)
            leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
            loss = smooth_l1_loss(*leaves, beta, reduction)
            results.append((loss, *torch.autograd.grad(loss.sum() * 3, leaves)))
        torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_retained_graph(device: torch.device, dtype: torch.dtype, reduction: str, factor: float) -> None:
    """The gradient that the forward pass wrote is handed out once, and is that of a pass of its own, bit for bit."""
    leaf = numbers(33, 70).to(device, dtype).requires_grad_()
    target, weight = (torch.rand(33, 70, device=device, dtype=dtype) for _ in range(2))
    loss = smooth_l1_loss(leaf, target, 0.3, reduction, weight)
    grad = torch.full_like(loss, factor)
    (first,) = torch.autograd.grad(loss, leaf, grad, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, leaf, grad, retain_graph=True)
    assert first.data_ptr() != second.data_ptr()
    second.zero_()
    assert_equal(first, kept)
    (third,) = torch.autograd.grad(loss, leaf, grad, create_graph=True)
    assert third.requires_grad
    assert_equal(third.detach(), kept)
    torch.autograd.grad(loss, leaf, grad)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaf, grad)


def test_a_scaled_half_precision_gradient_is_not_lost(device: torch.device) -> None:
    """1e-8 is none in float16; times the scale of a gradient scaler it is."""
    leaf = torch.full((100, 100), 0.25, dtype=torch.float16, device=device, requires_grad=True)
    weight = torch.full((1,), 1e-4, device=device)
    loss = smooth_l1_loss(leaf, torch.zeros_like(leaf), weight=weight)
    (grad,) = torch.autograd.grad(loss, leaf, torch.full_like(loss, 32768))
    torch.testing.assert_close(
        grad.float(), torch.full_like(grad, 0.25 * 1e-8 * 32768, dtype=torch.float32), rtol=1e-3, atol=0
    )


def apart(*shape: int) -> tuple[Tensor, Tensor]:
    """Pairs on both sides of beta = 1 and clear of the kinks at 0 and 1, so that numeric derivatives exist."""
    target = numbers(*shape)
    step = torch.tensor([0.25, 0.5, 2.0])[torch.randint(3, shape)] * (torch.randint(2, shape) * 2 - 1)
    return target + step, target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, reduction: str) -> None:
    samples = [
        Sample((*apart(3, 4), 1.0, reduction), differentiable=(0, 1)),
        Sample((*apart(5, 4), 1.0, reduction, numbers(5, 1)), differentiable=(0, 1)),
        Sample((*apart(2, 3, 2, 2), 0.0, reduction, numbers(3, 1, 2)), differentiable=(0, 1)),
    ]
    check_operator(smooth_l1_loss, samples, device, second_derivative=True)
    if reduction != "none":
        x, y = (t.to(device) for t in apart(3, 4))
        args = (x, y, torch.rand(3, 1, device=device), 1.0, 1, False)
        torch.library.opcheck(torch.ops.detops.smooth_l1_loss_with_gradient.default, args)


def test_empty(device: torch.device) -> None:
    for shape in ((0,), (0, 4), (3, 0, 2)):
        predicted = torch.zeros(shape, device=device, requires_grad=True)
        assert smooth_l1_loss(predicted, predicted.detach(), reduction="sum").item() == 0
        assert smooth_l1_loss(predicted, predicted.detach(), reduction="mean").isnan()
        assert smooth_l1_loss(predicted, predicted.detach(), reduction="none").shape == shape
        (grad,) = torch.autograd.grad(smooth_l1_loss(predicted, predicted.detach(), reduction="sum"), predicted)
        assert grad.shape == shape


def test_gradients_only_where_needed(device: torch.device) -> None:
    predicted, target = numbers(9, 4).to(device), numbers(9, 4).to(device)
    weight = torch.rand(9, 1, device=device, requires_grad=True)
    assert not smooth_l1_loss(predicted, target, weight=weight).requires_grad
    for i in range(2):
        args = [predicted, target]
        args[i] = args[i].clone().requires_grad_()
        loss = smooth_l1_loss(*args, weight=weight)
        loss.backward()
        assert args[i].grad is not None and args[1 - i].grad is None and weight.grad is None


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_layouts(device: torch.device, reduction: str) -> None:
    """Every pair of layouts gives the row-major result, and the gradient has the layout of its input."""

    def layouts(t: Tensor) -> list[Tensor]:
        padded = torch.zeros(*t.shape[:-1], t.shape[-1] + 3, dtype=t.dtype, device=t.device)
        padded[..., 1:-2] = t
        permuted = t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
        return [t, t.contiguous(memory_format=torch.channels_last), permuted, padded[..., 1:-2], t.flip(0).flip(0)]

    predicted, target, weight = (numbers(3, 5, 16, 40).to(device) for _ in range(3))
    expected = smooth_l1_loss(predicted, target, 1.0, reduction, weight)
    grad = torch.rand_like(expected)
    leaf = predicted.clone().requires_grad_()
    (expected_grad,) = torch.autograd.grad(smooth_l1_loss(leaf, target, 1.0, reduction, weight), leaf, grad)
    for x in layouts(predicted):
        for y in layouts(target):
            for w in layouts(weight):
                leaf = x.detach().requires_grad_()
                loss = smooth_l1_loss(leaf, y, 1.0, reduction, w)
                (actual,) = torch.autograd.grad(loss, leaf, grad)
                torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
                assert_equal(actual, expected_grad)
                if x.numel() == x.untyped_storage().nbytes() // x.itemsize:
                    assert actual.stride() == x.stride()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3),
    beta=st.floats(1e-3, 10),
    axes=st.integers(0, 7),
)
def test_invariants(seed: int, shape: list[int], beta: float, axes: int) -> None:
    torch.manual_seed(seed)
    predicted, target = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    weight = torch.rand([size if axes >> i & 1 else 1 for i, size in enumerate(shape)], dtype=torch.float64)
    each = smooth_l1_loss(predicted, target, beta, "none", weight)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(smooth_l1_loss(target, predicted, beta, "none", weight), each, **close)
    torch.testing.assert_close(smooth_l1_loss(predicted, target, beta, "none") * weight, each, **close)
    torch.testing.assert_close(smooth_l1_loss(predicted, target, beta, "sum", weight), each.sum(), **close)
    torch.testing.assert_close(smooth_l1_loss(predicted, target, beta, "mean", weight), each.mean(), **close)
    scaled = smooth_l1_loss(predicted * 4, target * 4, beta * 4, "none", weight)
    torch.testing.assert_close(scaled, each * 4, **close)
    difference = (predicted - target).abs() * weight
    assert (each <= difference + 1e-12).all() and (each >= difference - beta / 2 * weight - 1e-12).all()
    assert (smooth_l1_loss(predicted, predicted, beta, "none", weight) == 0).all()


def test_values_without_meaning(device: torch.device) -> None:
    inf, nan = math.inf, math.nan
    predicted = torch.tensor([nan, inf, inf, 1e30, 3e38, 1.0, 1e-45], device=device, requires_grad=True)
    target = torch.tensor([0.0, 0, inf, -1e30, -3e38, nan, 0], device=device)
    for beta in (1.0, 0.0, 1e-45, 1e-30, inf):
        loss = smooth_l1_loss(predicted, target, beta, "none")
        (grad,) = torch.autograd.grad(loss.sum(), predicted)
        assert loss[0].isnan() and loss[5].isnan() and grad[0].isnan() and grad[5].isnan()
        if beta < 1e-40:
            assert loss[6] == predicted[6] and grad[6] == (1 if predicted[6] else 0)
        if beta <= 1:
            assert loss[1] == inf and loss[3] == 2e30 and grad[1] == grad[3] == grad[4] == 1


def test_dtypes(device: torch.device) -> None:
    predicted, target = numbers(300, 7).to(device), numbers(300, 7).to(device)
    expected = smooth_l1_loss(predicted, target)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        leaf, other = predicted.to(dtype).requires_grad_(), target.float().requires_grad_()
        loss = smooth_l1_loss(leaf, other)
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
        grads = torch.autograd.grad(loss, (leaf, other))
        assert grads[0].dtype == dtype and grads[1].dtype == torch.float32
        with torch.autocast(device.type, dtype=torch.bfloat16):
            wide = smooth_l1_loss(leaf, other)
            each = smooth_l1_loss(leaf, other, reduction="none")
        assert wide.dtype == each.dtype == torch.float32
        torch.testing.assert_close(wide.double(), expected, rtol=1e-6, atol=0)
        assert torch.autograd.grad(wide, leaf)[0].dtype == dtype


def test_a_half_precision_sum_is_not_lost(device: torch.device) -> None:
    """4096 ones in float16: adding them up in float16 stops at 2048."""
    ones = torch.ones(64, 64, dtype=torch.float16, device=device)
    assert smooth_l1_loss(ones * 2, ones * 0.5, reduction="sum").item() == 4096


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    predicted, target, weight = torch.randn(300_000, 4), torch.randn(300_000, 4), torch.rand(300_000, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = predicted.clone().requires_grad_()
            loss = smooth_l1_loss(leaf, target, 0.5, "sum", weight)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.large
def test_more_than_2_31_elements() -> None:
    """Needs 9 GB: 4 GB of input, 4 GB of gradient; the target is one number."""
    predicted = torch.zeros(2**31 + 70, dtype=torch.bfloat16)
    predicted[-3:] = torch.tensor([2.0, 0.5, -4.0])
    target = torch.zeros((), dtype=torch.bfloat16).expand(predicted.shape)
    loss = smooth_l1_loss(predicted.requires_grad_(), target, reduction="sum")
    assert loss.item() == 1.5 + 0.125 + 3.5
    (grad,) = torch.autograd.grad(loss, predicted)
    assert grad[-4:].tolist() == [0, 1, 0.5, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a, a[:, :1]), r"expected target of the shape of input, \(5, 4\), got \(5, 1\)"),
        (lambda a: (a, a[0]), r"expected target of the shape of input, \(5, 4\), got \(4\)"),
        (lambda a: (a.int(), a), r"expected input of dtype float32, float64, float16 or bfloat16, got int32"),
        (lambda a: (a, a.bool()), r"expected target of dtype float32, float64, float16 or bfloat16, got bool"),
        (
            lambda a: (a, a, 1.0, "sum", a[:, 0]),
            r"expected weight that broadcasts to the shape of input, \(5, 4\), got",
        ),
        (
            lambda a: (a, a, 1.0, "sum", a[None]),
            r"expected weight that broadcasts to the shape of input, \(5, 4\), got",
        ),
        (
            lambda a: (a, a, 1.0, "sum", a.long()),
            r"expected weight of dtype float32, float64, float16 or bfloat16, got",
        ),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    bad = make(numbers(5, 4).to(device))
    with pytest.raises(RuntimeError, match=f"^smooth_l1_loss: {message}") as eager:
        smooth_l1_loss(*bad)
    with pytest.raises(RuntimeError) as traced:
        smooth_l1_loss(*(t.to("meta") if isinstance(t, Tensor) else t for t in bad))
    assert str(traced.value) == str(eager.value)


def test_devices_differ(device: torch.device) -> None:
    a = numbers(5, 4).to(device)
    with pytest.raises(RuntimeError, match=r"smooth_l1_loss: expected target on the device of input, .*, got"):
        smooth_l1_loss(a, a.to("meta"))


def test_arguments_of_the_wrong_kind() -> None:
    a = torch.ones(2, 4)
    for beta in (-1.0, math.nan):
        with pytest.raises(ValueError, match="smooth_l1_loss: expected beta of at least 0, got"):
            smooth_l1_loss(a, a, beta)
    with pytest.raises(ValueError, match="smooth_l1_loss: expected reduction 'mean', 'sum' or 'none', got 'max'"):
        smooth_l1_loss(a, a, reduction="max")
