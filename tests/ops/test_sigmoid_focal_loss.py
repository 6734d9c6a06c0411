import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import sigmoid_focal_loss, sigmoid_focal_loss_from_labels

REDUCTIONS = ("none", "sum", "mean")
SHAPES = [(), (1,), (7,), (64,), (3, 5), (1025, 4), (90, 91), (8193, 2)]


def logits(*shape: int) -> Tensor:
    """Eighths, exact in every dtype."""
    return (torch.randint(-48, 49, shape) / 8).double()


def hard_targets(*shape: int) -> Tensor:
    return torch.randint(2, shape).double()


def soft_targets(*shape: int) -> Tensor:
    """Quarters, 0 and 1 among them."""
    return (torch.randint(0, 5, shape) / 4).double()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return (labels[:, None] == torch.arange(classes, device=labels.device)).double()


def reference(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    """Element by element in plain Python, from section 3 of the paper, in between for targets in between."""

    def log_sigmoid(x: float) -> float:
        return min(x, 0.0) - math.log1p(math.exp(-abs(x)))

    def loss(x: float, t: float) -> float:
        p = math.exp(log_sigmoid(x))
        wrong = (1 - p if x < 30 else math.exp(-x)) * t + p * (1 - t)
        weight = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1.0
        return -weight * wrong**gamma * (t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x))

    each = [loss(*pair) for pair in zip(inputs.flatten().tolist(), targets.flatten().tolist(), strict=True)]
    if reduction == "none":
        return torch.tensor(each, dtype=torch.float64).view(inputs.shape)
    return torch.tensor(math.fsum(each) / (len(each) if reduction == "mean" else 1), dtype=torch.float64)


@pytest.mark.parametrize("targets", [hard_targets, soft_targets])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_paper(device: torch.device, shape: tuple[int, ...], targets) -> None:
    x, t = logits(*shape), targets(*shape)
    for alpha, gamma in ((0.25, 2.0), (-1, 2), (0.75, 0.0), (0.0, 1.0), (1.0, 3.7), (0.25, 0.5)):
        for reduction in REDUCTIONS:
            expected = reference(x, t, alpha, gamma, reduction)
            for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
                args = (tensor.to(device, dtype) for tensor in (x, t))
                actual = sigmoid_focal_loss(*args, alpha, gamma, reduction)
                assert actual.dtype == dtype
                torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance * 1e-6)


def test_by_hand(device: torch.device) -> None:
    """Where the sigmoid is a half, a quarter, three quarters."""
    x = torch.tensor([0.0, -math.log(3), math.log(3)], device=device, dtype=torch.float64)
    actual = sigmoid_focal_loss(x, torch.ones_like(x), 0.25, 2)
    expected = [0.25 * 0.25 * math.log(2), 0.25 * 9 / 16 * math.log(4), 0.25 / 16 * math.log(4 / 3)]
    torch.testing.assert_close(actual.cpu(), torch.tensor(expected, dtype=torch.float64))
    actual = sigmoid_focal_loss(x, torch.zeros_like(x), 0.25, 1, "sum")
    expected_sum = 0.75 * (math.log(2) / 2 + math.log(4 / 3) / 4 + math.log(4) * 3 / 4)
    assert actual.item() == pytest.approx(expected_sum, rel=1e-14)
    labels = torch.tensor([1, 2, -1], device=device)
    each = sigmoid_focal_loss_from_labels(x[:, None].expand(3, 2), labels, -1, 0, reduction="none")
    expected_each = [[math.log(2), math.log(2)], [math.log(4 / 3), math.log(4 / 3)], [0.0, 0.0]]
    torch.testing.assert_close(each.cpu(), torch.tensor(expected_each, dtype=torch.float64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("alpha", [0.25, -1])
@pytest.mark.parametrize("gamma", [2, 0, 1.5])
def test_agrees_with_torchvision(device: torch.device, gamma: float, alpha: float, reduction: str) -> None:
    """Soft targets, in which torchvision's gradient has no NaN; gradients in both arguments."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.sigmoid_focal_loss
    x = torch.randn(70, 33, dtype=torch.float64, device=device) * 3
    t = torch.rand_like(x)
    for dtype in (torch.float64, torch.float32):
        ours = [tensor.to(dtype).requires_grad_() for tensor in (x, t)]
        theirs = [tensor.to(dtype).double().requires_grad_() for tensor in (x, t)]
        actual, expected = sigmoid_focal_loss(*ours, alpha, gamma, reduction), peer(*theirs, alpha, gamma, reduction)
        tolerance = 1e-9 if dtype is torch.float64 else 5e-5
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance / 10)
        grad = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64, device=device).view_as(expected)
        gradients = torch.autograd.grad(actual, ours, grad.to(dtype)), torch.autograd.grad(expected, theirs, grad)
        for a, e in zip(*gradients, strict=True):
            torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance / 10)


def test_torchvision_loses_the_digits_of_confident_answers(device: torch.device) -> None:
    """Float32 torchvision subtracts the probability from 1; at a logit of 20 nothing is left."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.sigmoid_focal_loss
    x = torch.tensor([10.0, 15.0, 20.0, 40.0], device=device)
    expected = reference(x.cpu(), torch.ones(4), 0.25, 2, "none")
    assert (peer(x, torch.ones_like(x)).cpu().double()[1:] / expected[1:] - 1).abs().min() > 0.01
    actual = sigmoid_focal_loss(x, torch.ones_like(x)).cpu().double()
    torch.testing.assert_close(actual[:3], expected[:3], rtol=2e-6, atol=0)


@pytest.mark.parametrize("function", [sigmoid_focal_loss, sigmoid_focal_loss_from_labels])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_logit(device: torch.device, dtype: torch.dtype, function) -> None:
    """Loss and gradient of large and infinite logits are their limits; NaN gives NaN."""
    values = [0.0, 30, 90, 110, 800, 1e30, math.inf]
    x = torch.tensor([*values, *(-v for v in values), math.nan], dtype=dtype, device=device)
    for target in (0.0, 1.0, 0.5) if function is sigmoid_focal_loss else (0.0, 1.0):
        for gamma in (0.0, 0.5, 2.0, 5.0):
            leaf = x.clone().requires_grad_()
            if function is sigmoid_focal_loss:
                loss = function(leaf, torch.full_like(x, target), -1, gamma)
            else:
                labels = torch.full(x.shape, 0 if target else 1, device=device)
                loss = function(leaf[:, None], labels, -1, gamma, "none")[:, 0]
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            assert loss[-1].isnan() and grad[-1].isnan()
            assert grad[:-1].isfinite().all() and not loss[:-1].isnan().any()
            high, low = loss[6].item(), loss[13].item()
            assert high == (0 if target == 1 else math.inf) and low == (0 if target == 0 else math.inf)
            power = 0.5**gamma if target == 0.5 else 1
            for i, weight in ((5, 1 - target), (12, target)):  # 1e30
                torch.testing.assert_close(loss[i].item(), 1e30 * weight * power, rtol=1e-6, atol=0)
                slope = (1 if i == 5 else -1) * weight * power
                torch.testing.assert_close(grad[i].item(), slope, rtol=1e-6, atol=1e-30)


def clear_of_kinks(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64).mul(8).round() / 4, (torch.randint(1, 4, shape) / 4).double()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_instruction_set
def test_operator(device: torch.device, reduction: str) -> None:
    shapes = ((3, 4), (5, 7), (2, 3, 2, 2)) if reduction == "none" else ((2,), (2,), (2, 1))  # no sum's order matters
    samples = [
        Sample((*clear_of_kinks(*shapes[0]), 0.25, 2, reduction), differentiable=(0, 1)),
        Sample((clear_of_kinks(*shapes[1])[0], hard_targets(*shapes[1]), 0.25, 1.5, reduction), differentiable=(0,)),
        Sample((*clear_of_kinks(*shapes[2]), -1, 3.0, reduction), differentiable=(0, 1)),
    ]
    check_operator(sigmoid_focal_loss, samples, device, second_derivative=True)
    if reduction != "none":
        x, t = (tensor.to(device) for tensor in clear_of_kinks(3, 4))
        args = (x, t, 0.25, 2.0, 1, False)
        torch.library.opcheck(torch.ops.detops.sigmoid_focal_loss_with_gradient.default, args)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_instruction_set
def test_operator_from_labels(device: torch.device, reduction: str) -> None:
    x = clear_of_kinks(5, 3)[0]
    samples = [
        Sample((x[:2, :1].clone(), torch.tensor([1, 0]), 0.25, 2.0, reduction), differentiable=(0,)),
        Sample((x[:1, :2].clone(), torch.tensor([1], dtype=torch.uint8), -1, 0.5, reduction), differentiable=(0,)),
    ]
    if reduction == "none":  # the order of a sum depends on the layout
        samples += [
            Sample((x, torch.tensor([0, 2, 3, -1, 1]), 0.25, 2.0, reduction), differentiable=(0,)),
            Sample((x, torch.tensor([0, 2, 3, 3, 1], dtype=torch.uint8), -1, 0.5, reduction), differentiable=(0,)),
            Sample(
                (
                    x[:4].view(2, 2, 3),
                    torch.tensor([[0, 3], [-1, 2]]),
                    0.25,
                    2.0,
                    reduction,
                    torch.rand(2, 1, 3).double(),
                ),
                differentiable=(0,),
            ),
        ]
    check_operator(sigmoid_focal_loss_from_labels, samples, device, second_derivative=True)
    if reduction != "none":
        args = (x.to(device), torch.tensor([0, 2, 3, -1, 1], device=device), None, 0.25, 2.0, 1, False)
        torch.library.opcheck(torch.ops.detops.sigmoid_focal_loss_from_labels_with_gradient.default, args)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (3000, 1), (900, 4), (90, 91), (2, 3000)])
def test_labels_are_one_hot_targets(device: torch.device, shape: tuple[int, int], reduction: str) -> None:
    """The same losses and gradients, bit for bit, of labelled and background rows; nothing of ignored ones."""
    n, classes = shape
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = logits(n, classes).to(device, dtype)
        labels = torch.randint(-1, classes + 1, (n,), device=device)
        known = labels >= 0
        x[~known] = math.nan
        leaf = x.clone().requires_grad_()
        loss = sigmoid_focal_loss_from_labels(leaf, labels, reduction=reduction)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        dense_leaf = x[known].requires_grad_()
        dense = sigmoid_focal_loss(dense_leaf, one_hot(labels[known], classes).to(dtype), reduction="none")
        (dense_grad,) = torch.autograd.grad(dense.sum(), dense_leaf)
        assert (grad[~known] == 0).all()
        if reduction == "none":
            assert (loss[~known] == 0).all()
            assert_equal(loss[known], dense.detach())
            assert_equal(grad[known], dense_grad)
        else:
            divisor = x.numel() if reduction == "mean" else 1
            total = dense.double().sum() / divisor
            torch.testing.assert_close(loss.double(), total, rtol=20 * torch.finfo(dtype).eps, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_dtypes_of_labels(device: torch.device, dtype: torch.dtype) -> None:
    x = logits(50, 5).to(device)
    labels = torch.randint(0, 6, (50,), device=device)
    every_second = torch.stack([labels, labels - 1], 1).to(dtype)[:, 0]
    for same in (labels.to(dtype), every_second):
        assert_equal(sigmoid_focal_loss_from_labels(x, same), sigmoid_focal_loss_from_labels(x, labels))


def test_layouts_of_logits(device: torch.device) -> None:
    x, labels = logits(40, 91).to(device), torch.randint(-1, 92, (40,), device=device)
    padded = torch.cat([x, x], 1)[:, :91]
    for layout in (x.t().contiguous().t(), padded, x.flip(0).flip(0)):
        for reduction in REDUCTIONS:
            expected = sigmoid_focal_loss_from_labels(x, labels, reduction=reduction)
            actual = sigmoid_focal_loss_from_labels(layout, labels, reduction=reduction)
            if reduction == "none":
                assert_equal(actual, expected)
            else:  # the order of a sum depends on the layout
                torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 7, 9), (1, 1, 4, 3, 2), (2, 2, 1, 33, 50), (1, 2, 200, 2, 2), (3, 1, 1, 1, 1)]
)
def test_maps_of_logits(device: torch.device, shape: tuple[int, ...], label_dtype: torch.dtype) -> None:
    """A head's map (B, A * C, H, W) as it lies in memory, whatever that is, is rows of logits bit for bit."""
    images, anchors, classes, height, width = shape
    labels = torch.randint(-1, classes + 1, (images, height, width, anchors)).clamp(max=torch.iinfo(label_dtype).max)
    labels = labels.clamp(min=torch.iinfo(label_dtype).min).to(device, label_dtype)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        of_map = logits(images, anchors * classes, height, width).to(device, dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            leaf = of_map.contiguous(memory_format=layout).requires_grad_()
            aligned = leaf.unflatten(1, (anchors, classes)).permute(0, 3, 4, 1, 2)
            loss = sigmoid_focal_loss_from_labels(aligned, labels, reduction="none")
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            assert grad.is_contiguous(memory_format=layout)
            rows = aligned.detach().reshape(-1, classes).requires_grad_()
            wanted = sigmoid_focal_loss_from_labels(rows, labels.flatten(), reduction="none")
            (wanted_grad,) = torch.autograd.grad(wanted.sum(), rows)
            assert_equal(loss.detach().reshape(-1, classes), wanted.detach())
            assert_equal(grad.unflatten(1, (anchors, classes)).permute(0, 3, 4, 1, 2).reshape(-1, classes), wanted_grad)
            total = sigmoid_focal_loss_from_labels(aligned, labels, reduction="sum")
            torch.testing.assert_close(total.double(), wanted.double().sum(), rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_repeated_labels(device: torch.device) -> None:
    """Of a stride of 0, which could be taken for the classes' own."""
    x, labels = logits(6, 5, 4).to(device), torch.randint(-1, 5, (6, 1), device=device)
    every = labels.expand(6, 5)
    for layout in (x, x.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        actual = sigmoid_focal_loss_from_labels(layout, every, reduction="none")
        assert_equal(actual, sigmoid_focal_loss_from_labels(x, every.contiguous(), reduction="none"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_of_labelled_logits(device: torch.device, reduction: str) -> None:
    x, labels = logits(2, 30, 3, 7).to(device), torch.randint(-1, 8, (2, 30, 3), device=device)
    each = sigmoid_focal_loss_from_labels(x, labels, reduction="none")
    for shape in ((), (7,), (3, 1), (2, 1, 1, 1), (2, 30, 3, 7)):
        weight = torch.rand(shape, device=device, dtype=torch.float64, requires_grad=True)
        leaf = x.clone().requires_grad_()
        loss = sigmoid_focal_loss_from_labels(leaf, labels, reduction=reduction, weight=weight)
        expected = {"none": lambda t: t, "sum": torch.sum, "mean": torch.mean}[reduction](each * weight)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-14, atol=0)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        plain_leaf = x.clone().requires_grad_()
        plain = sigmoid_focal_loss_from_labels(plain_leaf, labels, reduction="none") * weight.detach()
        (expected_grad,) = torch.autograd.grad(plain.mean() if reduction == "mean" else plain.sum(), plain_leaf)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-14, atol=0)
    with pytest.raises(
        RuntimeError, match=r"weight that broadcasts to the shape of logits, \(2, 30, 3, 7\), got \(8\)"
    ):
        sigmoid_focal_loss_from_labels(x, labels, weight=torch.ones(8, device=device))


def test_empty(device: torch.device) -> None:
    for shape in ((0,), (0, 4), (3, 0, 2)):
        x = torch.zeros(shape, device=device, requires_grad=True)
        loss = sigmoid_focal_loss(x, x.detach(), reduction="sum")
        assert loss.item() == 0 and torch.autograd.grad(loss, x)[0].shape == shape
        assert sigmoid_focal_loss(x, x.detach(), reduction="mean").isnan()
        assert sigmoid_focal_loss(x, x.detach()).shape == shape
    for n, classes in ((0, 5), (5, 0), (0, 0)):
        x = torch.zeros(n, classes, device=device, requires_grad=True)
        loss = sigmoid_focal_loss_from_labels(x, torch.zeros(n, dtype=torch.int64, device=device))
        assert loss.item() == 0 and torch.autograd.grad(loss, x)[0].shape == (n, classes)


def test_mixed_dtypes(device: torch.device) -> None:
    """As PyTorch promotes them, under autocast float32 at least; the gradient is its input's."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.sigmoid_focal_loss
    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    x, t = logits(30, 7).to(device), soft_targets(30, 7).to(device)
    expected = sigmoid_focal_loss(x, t, reduction="sum")
    for of_x in floating:
        for of_t in floating:
            leaf, other = x.to(of_x).requires_grad_(), t.to(of_t).requires_grad_()
            loss = sigmoid_focal_loss(leaf, other, reduction="sum")
            assert loss.dtype == peer(leaf, other, reduction="sum").dtype
            torch.testing.assert_close(loss.double(), expected, rtol=2 * torch.finfo(loss.dtype).eps, atol=0)
            assert [g.dtype for g in torch.autograd.grad(loss, (leaf, other))] == [of_x, of_t]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert sigmoid_focal_loss(x.half(), t.half()).dtype == torch.float32
        assert sigmoid_focal_loss(x, t).dtype == torch.float64
        labels = torch.zeros(30, dtype=torch.int64, device=device)
        assert sigmoid_focal_loss_from_labels(x.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_retained_graph(device: torch.device, dtype: torch.dtype, factor: float) -> None:
    """The gradient that the forward pass wrote is handed out once, and is that of a pass of its own, bit for bit."""
    x, labels = logits(33, 70).to(device, dtype).requires_grad_(), torch.randint(-1, 71, (33,), device=device)
    for loss in (
        sigmoid_focal_loss(x, soft_targets(33, 70).to(device, dtype), reduction="sum"),
        sigmoid_focal_loss_from_labels(x, labels, reduction="mean"),
    ):
        grad = torch.full_like(loss, factor)
        (first,) = torch.autograd.grad(loss, x, grad, retain_graph=True)
        kept = first.clone()
        (second,) = torch.autograd.grad(loss, x, grad, retain_graph=True)
        second.zero_()
        assert_equal(first, kept)
        (third,) = torch.autograd.grad(loss, x, grad, create_graph=True)
        assert third.requires_grad
        assert_equal(third.detach(), kept)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    alpha=st.floats(0, 1),
    gamma=st.floats(0, 6),
)
def test_invariants(seed: int, shape: list[int], alpha: float, gamma: float) -> None:
    torch.manual_seed(seed)
    x, t = torch.randn(shape, dtype=torch.float64) * 5, torch.rand(shape, dtype=torch.float64)
    each = sigmoid_focal_loss(x, t, alpha, gamma)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(sigmoid_focal_loss(-x, 1 - t, 1 - alpha, gamma), each, **close)
    torch.testing.assert_close(sigmoid_focal_loss(x, t, alpha, gamma, "sum"), each.sum(), **close)
    torch.testing.assert_close(sigmoid_focal_loss(x, t, alpha, gamma, "mean"), each.mean(), **close)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(x, t, -1, 0), cross_entropy, **close)
    torch.testing.assert_close(sigmoid_focal_loss(x, t, 0.5, gamma) * 2, sigmoid_focal_loss(x, t, -1, gamma), **close)
    assert (each >= 0).all() and (each <= cross_entropy + 1e-12).all()
    labels = torch.randint(-1, shape[0] + 1, (9,))
    rows = torch.randn(9, shape[0], dtype=torch.float64)
    of_rows = sigmoid_focal_loss_from_labels(rows, labels, alpha, gamma, "none")
    order = torch.randperm(9)
    assert_equal(sigmoid_focal_loss_from_labels(rows[order], labels[order], alpha, gamma, "none"), of_rows[order])


def test_labels_out_of_range(device: torch.device, request: pytest.FixtureRequest) -> None:
    """An error on the CPU; a GPU, whose values cannot be seen without waiting for it, ignores the row."""
    x, labels = logits(6, 4).to(device), torch.tensor([0, 4, -2, 5, 127, -128], device=device)
    if request.node.callspec.params["device"].startswith("cpu"):
        for bad in (-2, 5, 127):
            with pytest.raises(RuntimeError, match=f"^sigmoid_focal_loss_from_labels: .* from -1 to 4, got {bad}"):
                sigmoid_focal_loss_from_labels(x, torch.tensor([0, 4, bad, 1, 1, 1]))
    else:
        for dtype in (torch.int64, torch.int8):
            each = sigmoid_focal_loss_from_labels(x, labels.to(dtype), reduction="none")
            assert (each[2:] == 0).all() and (each[:2] > 0).all()


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    x, t, labels = torch.randn(20_000, 91), torch.rand(20_000, 91), torch.randint(-1, 92, (20_000,))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            losses = sigmoid_focal_loss(leaf, t, reduction="sum"), sigmoid_focal_loss_from_labels(leaf, labels)
            results.append([(loss.detach(), *torch.autograd.grad(loss, leaf)) for loss in losses])
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.large
def test_more_than_2_31_elements() -> None:
    """Needs 9 GB: 4 GB of logits, 4 GB of gradient."""
    x = torch.full((2**25 + 1, 64), -40.0, dtype=torch.bfloat16)
    x[-1, -1] = 40
    labels = torch.full((len(x),), 64, dtype=torch.uint8)
    loss = sigmoid_focal_loss_from_labels(x.requires_grad_(), labels, -1)
    assert loss.item() == 40
    (grad,) = torch.autograd.grad(loss, x)
    assert grad[-1, -2:].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a, a[:, :1]), r"expected targets of the shape of inputs, \(5, 4\), got \(5, 1\)"),
        (lambda a: (a.int(), a), r"expected inputs of dtype float32, float64, float16 or bfloat16, got int32"),
        (lambda a: (a, a.bool()), r"expected targets of dtype float32, float64, float16 or bfloat16, got bool"),
    ],
)
def test_says_what_is_wrong(device: torch.device, make, message: str) -> None:
    bad = make(logits(5, 4).to(device))
    with pytest.raises(RuntimeError, match=f"^sigmoid_focal_loss: {message}") as eager:
        sigmoid_focal_loss(*bad)
    with pytest.raises(RuntimeError) as traced:
        sigmoid_focal_loss(*(t.to("meta") for t in bad))
    assert str(traced.value) == str(eager.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a[0, 0], a[0].long()), r"expected logits of shape \(..., C\), got \(\)"),
        (lambda a: (a[0], a[0].long()), r"expected labels of shape \(\), got \(4\)"),
        (lambda a: (a, torch.zeros(4, dtype=torch.int64)), r"expected labels of shape \(5\), got \(4\)"),
        (lambda a: (a, torch.zeros(5, 1, dtype=torch.int64)), r"expected labels of shape \(5\), got \(5, 1\)"),
        (lambda a: (a, a[:, 0]), r"expected labels of an integer dtype, got float64"),
        (lambda a: (a, a[:, 0].bool()), r"expected labels of an integer dtype, got bool"),
        (lambda a: (a.long(), a[:, 0].long()), r"expected logits of dtype float32, float64, float16 or bfloat16, got"),
    ],
)
def test_says_what_is_wrong_with_labels(device: torch.device, make, message: str) -> None:
    bad = [tensor.to(device) for tensor in make(logits(5, 4))]
    with pytest.raises(RuntimeError, match=f"^sigmoid_focal_loss_from_labels: {message}") as eager:
        sigmoid_focal_loss_from_labels(*bad)
    with pytest.raises(RuntimeError) as traced:
        sigmoid_focal_loss_from_labels(*(t.to("meta") for t in bad))
    assert str(traced.value) == str(eager.value)


def test_devices_differ(device: torch.device) -> None:
    a = logits(5, 4).to(device)
    with pytest.raises(RuntimeError, match=r"sigmoid_focal_loss: expected targets on the device of inputs, .*, got"):
        sigmoid_focal_loss(a, a.to("meta"))
    with pytest.raises(RuntimeError, match=r"expected labels on the device of logits, .*, got"):
        sigmoid_focal_loss_from_labels(a, torch.zeros(5, dtype=torch.int64, device="meta"))


def test_arguments_of_the_wrong_kind() -> None:
    a, labels = torch.ones(2, 4), torch.zeros(2, dtype=torch.int64)
    for function, second in ((sigmoid_focal_loss, a), (sigmoid_focal_loss_from_labels, labels)):
        name = function.__name__
        for alpha in (-0.5, 1.5, math.nan):
            with pytest.raises(ValueError, match=f"{name}: expected alpha from 0 to 1, or -1 for none, got {alpha}"):
                function(a, second, alpha)
        for gamma in (-1.0, math.nan):
            with pytest.raises(ValueError, match=f"{name}: expected gamma of at least 0, got {gamma}"):
                function(a, second, gamma=gamma)
        with pytest.raises(ValueError, match=f"{name}: expected reduction 'mean', 'sum' or 'none', got 'max'"):
            function(a, second, reduction="max")
