import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import balanced_l1_loss, smooth_l1_loss

REDUCTIONS = ("mean", "sum", "none")
PARAMETERS = ((0.5, 1.5, 1.0), (0.2, 0.9, 0.5), (1.0, 2.0, 3.0), (0.05, 1.5, 1.0))
SHAPES = [(), (1,), (7,), (64,), (3, 5), (2, 3, 4, 5), (1025, 4), (90, 91), (8193, 2)]


def numbers(*shape: int) -> Tensor:
    """Eighths, exact in every dtype."""
    return (torch.randint(-24, 25, shape) / 8).double()


def gradient_of_the_paper(x: float, alpha: float, gamma: float) -> float:
    """Equation 8, for beta = 1."""
    b = math.expm1(gamma / alpha)
    return alpha * math.log(b * abs(x) + 1) if abs(x) < 1 else gamma


def reference(predicted: Tensor, target: Tensor, parameters: tuple[float, ...], reduction: str, weight=None) -> Tensor:
    """Element by element in plain Python, as mmdet has it."""
    alpha, gamma, beta = parameters
    b = math.exp(gamma / alpha) - 1

    def loss(x: float, y: float, w: float) -> float:
        d = abs(x - y)
        near = alpha / b * (b * d + 1) * math.log(b * d / beta + 1) - alpha * d
        return w * (near if d < beta else gamma * d + gamma / b - alpha * beta)

    weights = torch.ones_like(predicted) if weight is None else weight.double().expand(predicted.shape)
    each = [loss(*values) for values in zip(*(t.flatten().tolist() for t in (predicted, target, weights)), strict=True)]
    if reduction == "none":
        return torch.tensor(each, dtype=torch.float64).view(predicted.shape)
    return torch.tensor(math.fsum(each) / (len(each) if reduction == "mean" else 1), dtype=torch.float64)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(device: torch.device, shape: tuple[int, ...], reduction: str) -> None:
    predicted, target = numbers(*shape), numbers(*shape)
    weights = [None, torch.rand(shape), torch.rand(())]
    if shape:
        weights.append(torch.rand(*shape[:-1], 1))
    for parameters in PARAMETERS:
        for weight in weights:
            expected = reference(predicted, target, parameters, reduction, weight)
            for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
                args = (t.to(device, dtype) for t in (predicted, target))
                actual = balanced_l1_loss(*args, *parameters, reduction, None if weight is None else weight.to(device))
                assert actual.dtype == dtype
                torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("parameters", [(0.5, 1.5), (0.2, 0.9)])
def test_gradient_of_the_paper(device: torch.device, parameters: tuple[float, float]) -> None:
    x = torch.linspace(-2, 2, 81, dtype=torch.float64, device=device).requires_grad_()
    (grad,) = torch.autograd.grad(balanced_l1_loss(x, torch.zeros_like(x), *parameters, reduction="sum"), x)
    expected = [math.copysign(gradient_of_the_paper(v, *parameters), v) for v in x.tolist()]
    torch.testing.assert_close(grad.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_by_hand(device: torch.device) -> None:
    """With alpha = gamma / log 2, b is 1."""
    alpha = 1 / math.log(2)
    x = torch.tensor([0.0, 0.5, 1.0, -3.0], dtype=torch.float64, device=device)
    near = alpha * (1.5 * math.log(1.5) - 0.5)
    expected = torch.tensor([0, near, 2 - alpha, 4 - alpha], dtype=torch.float64)
    actual = balanced_l1_loss(x, torch.zeros_like(x), alpha, 1.0, reduction="none")
    torch.testing.assert_close(actual.cpu(), expected)


def apart(*shape: int) -> tuple[Tensor, Tensor]:
    """Pairs on both sides of beta = 1 and clear of the kinks at 0 and 1, so that numeric derivatives exist."""
    target = numbers(*shape)
    step = torch.tensor([0.25, 0.5, 2.0])[torch.randint(3, shape)] * (torch.randint(2, shape) * 2 - 1)
    return target + step, target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, reduction: str) -> None:
    samples = [Sample((*apart(2), 0.5, 1.5, 1.0, reduction), differentiable=(0, 1))]
    if reduction == "none":  # the order of a sum depends on the layout
        samples += [
            Sample((*apart(5, 4), 0.25, 1.0, 0.75, reduction, numbers(5, 1)), differentiable=(0, 1)),
            Sample((*apart(2, 3, 2, 2), 0.5, 1.5, 1.0, reduction, numbers(3, 1, 2)), differentiable=(0, 1)),
        ]
    check_operator(balanced_l1_loss, samples, device, tolerance=16, second_derivative=True)
    if reduction != "none":
        x, y = (t.to(device) for t in apart(3, 4))
        args = (x, y, torch.rand(3, 1, device=device), 0.5, 1.5, 1.0, 1, False)
        torch.library.opcheck(torch.ops.detops.balanced_l1_loss_with_gradient.default, args)


def test_empty(device: torch.device) -> None:
    for shape in ((0,), (0, 4), (3, 0, 2)):
        x = torch.zeros(shape, device=device, requires_grad=True)
        assert balanced_l1_loss(x, x.detach(), reduction="mean").isnan()
        assert balanced_l1_loss(x, x.detach(), reduction="none").shape == shape
        loss = balanced_l1_loss(x, x.detach(), reduction="sum")
        assert loss.item() == 0 and torch.autograd.grad(loss, x)[0].shape == shape


def test_gradients_only_where_needed(device: torch.device) -> None:
    predicted, target = numbers(9, 4).to(device), numbers(9, 4).to(device)
    weight = torch.rand(9, 1, device=device, requires_grad=True)
    assert not balanced_l1_loss(predicted, target, weight=weight).requires_grad
    for i in range(2):
        args = [predicted, target]
        args[i] = args[i].clone().requires_grad_()
        balanced_l1_loss(*args, weight=weight).backward()
        assert args[i].grad is not None and args[1 - i].grad is None and weight.grad is None


def test_values_without_meaning(device: torch.device) -> None:
    inf, nan = math.inf, math.nan
    predicted = torch.tensor([nan, inf, inf, 1e30, -inf, 1.0, 0.0], device=device, requires_grad=True)
    target = torch.tensor([0.0, 0, inf, -1e30, 0, nan, 0], device=device)
    loss = balanced_l1_loss(predicted, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), predicted)
    assert loss[[0, 2, 5]].isnan().all() and grad[[0, 2, 5]].isnan().all()
    assert loss[1] == loss[4] == inf and loss[6] == grad[6] == 0
    assert grad[1] == grad[3] == 1.5 and grad[4] == -1.5
    torch.testing.assert_close(loss[3].item(), 3e30, rtol=1e-6, atol=0)


def test_dtypes(device: torch.device) -> None:
    predicted, target = numbers(300, 7).to(device), numbers(300, 7).to(device)
    expected = balanced_l1_loss(predicted, target)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        leaf, other = predicted.to(dtype).requires_grad_(), target.float().requires_grad_()
        loss = balanced_l1_loss(leaf, other)
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double(), expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
        grads = torch.autograd.grad(loss, (leaf, other))
        assert grads[0].dtype == dtype and grads[1].dtype == torch.float32
        with torch.autocast(device.type, dtype=torch.bfloat16):
            wide = balanced_l1_loss(leaf, other)
        assert wide.dtype == torch.float32
        torch.testing.assert_close(wide.double(), expected, rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3),
    alpha=st.floats(0.05, 3),
    gamma=st.floats(0.1, 3),
)
def test_invariants(seed: int, shape: list[int], alpha: float, gamma: float) -> None:
    torch.manual_seed(seed)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    each = balanced_l1_loss(x, y, alpha, gamma, reduction="none")
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(balanced_l1_loss(y, x, alpha, gamma, reduction="none"), each, **close)
    torch.testing.assert_close(balanced_l1_loss(x, y, alpha, gamma, reduction="sum"), each.sum(), **close)
    torch.testing.assert_close(balanced_l1_loss(x, y, alpha, gamma), each.mean(), **close)
    assert (balanced_l1_loss(x, x, alpha, gamma, reduction="none") == 0).all()
    assert (each <= gamma * (x - y).abs() + 1e-12).all()  # the slope is at most gamma
    assert (each >= gamma * smooth_l1_loss(x, y, reduction="none") - 1e-12).all()  # and concave below beta


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    predicted, target, weight = torch.randn(300_000, 4), torch.randn(300_000, 4), torch.rand(300_000, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = predicted.clone().requires_grad_()
            loss = balanced_l1_loss(leaf, target, reduction="sum", weight=weight)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a, a[:, :1]), r"expected target of the shape of input, \(5, 4\), got \(5, 1\)"),
        (lambda a: (a.int(), a), r"expected input of dtype float32, float64, float16 or bfloat16, got int32"),
        (lambda a: (a, a.bool()), r"expected target of dtype float32, float64, float16 or bfloat16, got bool"),
        (
            lambda a: (a, a, 0.5, 1.5, 1.0, "sum", a[:, 0]),
            r"expected weight that broadcasts to the shape of input, \(5, 4\), got",
        ),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    bad = make(numbers(5, 4).to(device))
    with pytest.raises(RuntimeError, match=f"^balanced_l1_loss: {message}") as eager:
        balanced_l1_loss(*bad)
    with pytest.raises(RuntimeError) as traced:
        balanced_l1_loss(*(t.to("meta") if isinstance(t, Tensor) else t for t in bad))
    assert str(traced.value) == str(eager.value)


def test_arguments_of_the_wrong_kind() -> None:
    a = torch.ones(2, 4)
    for alpha, gamma in ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (0.01, 1.0)):
        with pytest.raises(
            ValueError, match="balanced_l1_loss: expected alpha and gamma above 0 with gamma of at most"
        ):
            balanced_l1_loss(a, a, alpha, gamma)
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="balanced_l1_loss: expected beta above 0, got"):
            balanced_l1_loss(a, a, beta=beta)
    with pytest.raises(ValueError, match="balanced_l1_loss: expected reduction 'mean', 'sum' or 'none', got 'max'"):
        balanced_l1_loss(a, a, reduction="max")
