import math
from collections.abc import Sequence

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import clip_boxes_to_image, decode_boxes, encode_boxes

WEIGHTS = ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (3.0, 0.7, 1.3, 2.0))
CLIP = math.log(1000 / 16)
SIZES = [0, 1, 7, 64, 255, 256, 257, 1000]


def boxes(*shape: int) -> Tensor:
    """Proper boxes in eighths, exact in every dtype."""
    corner, size = torch.randint(-40, 400, (*shape, 2)) / 8, torch.randint(8, 300, (*shape, 2)) / 8
    return torch.cat([corner, corner + size], -1).double()


def offsets(*shape: int) -> Tensor:
    return (torch.randint(-16, 17, (*shape, 4)) / 8).double()


def encoded(box: Sequence[float], anchor: Sequence[float], weights: Sequence[float]) -> list[float]:
    """By the paper's equations 6 to 9, in plain Python."""
    gx, gy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    px, py = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    gw, gh, pw, ph = box[2] - box[0], box[3] - box[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
    plain = ((gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph))
    return [weight * value for weight, value in zip(weights, plain, strict=True)]


def decoded(delta: Sequence[float], anchor: Sequence[float], weights: Sequence[float], clip: float) -> list[float]:
    """By equations 1 to 4."""
    dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
    pw, ph = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = pw * dx + (anchor[0] + anchor[2]) / 2, ph * dy + (anchor[1] + anchor[3]) / 2
    w, h = pw * math.exp(min(dw, clip)), ph * math.exp(min(dh, clip))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("n", SIZES)
def test_matches_the_definition(device: torch.device, n: int, weights: tuple[float, ...]) -> None:
    ground_truth, anchors, deltas = boxes(n), boxes(n), 4 * offsets(n)
    rows = list(zip(ground_truth.tolist(), deltas.tolist(), anchors.tolist(), strict=True))
    offset = torch.tensor([encoded(g, a, weights) for g, _, a in rows], dtype=torch.float64).view(n, 4)
    box = torch.tensor([decoded(d, a, weights, CLIP) for _, d, a in rows], dtype=torch.float64).view(n, 4)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        g, d, a = (t.to(device, dtype) for t in (ground_truth, deltas, anchors))
        actual = encode_boxes(g, a, weights)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double().cpu(), offset, rtol=tolerance, atol=20 * tolerance)
        actual = decode_boxes(d, a, weights)
        torch.testing.assert_close(actual.double().cpu(), box, rtol=tolerance, atol=500 * tolerance)
        clipped = decode_boxes(d, a, weights, image_size=(30, 20.5))
        assert_equal(clipped, clip_boxes_to_image(actual, (30, 20.5)))


def test_by_hand(device: torch.device) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [10, 10, 30, 20]], device=device)
    box = torch.tensor([[5.0, 5, 15, 25], [0, 10, 40, 20]], device=device)
    expected = torch.tensor([[0.5, 0.25, 0, 0], [0, 0, math.log(2), 0]], device=device)
    torch.testing.assert_close(encode_boxes(box, anchors), expected)
    torch.testing.assert_close(decode_boxes(expected, anchors), box)
    clipped = decode_boxes(expected, anchors, image_size=(22, 12))
    torch.testing.assert_close(clipped, torch.tensor([[5.0, 5, 12, 22], [0, 10, 12, 20]], device=device))
    grown = torch.tensor([[0.0, 0, 100, -math.inf]], device=device)
    assert decode_boxes(grown, anchors[:1], clip=0.0).tolist() == [[0, 10, 10, 10]]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, weights: tuple[float, ...]) -> None:
    """Half precision is rounded there at every step."""
    coder = pytest.importorskip("torchvision.models.detection._utils", reason="the peer").BoxCoder(weights)
    ground_truth, anchors, deltas = (t.to(device, dtype) for t in (boxes(300), boxes(300), offsets(300, 3)))
    eps = torch.finfo(dtype).eps
    close = {"rtol": 8 * eps, "atol": 400 * eps}
    torch.testing.assert_close(
        encode_boxes(ground_truth, anchors, weights), coder.encode([ground_truth], [anchors])[0], **close
    )
    expected = coder.decode(deltas.view(300, 12), [anchors])
    torch.testing.assert_close(decode_boxes(deltas, anchors[:, None], weights), expected, **close)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    ground_truth, anchors, deltas = boxes(5), boxes(5), offsets(5)
    check_operator(
        encode_boxes,
        [
            Sample((ground_truth, anchors, WEIGHTS[1]), differentiable=(0, 1)),
            Sample((boxes(2, 3), boxes(1, 3)), differentiable=(0, 1)),
            Sample((boxes(0), boxes(0)), differentiable=(0, 1)),
        ],
        device,
    )
    check_operator(
        decode_boxes,
        [
            Sample((deltas, anchors, WEIGHTS[2], CLIP, (37.3, 41.7)), differentiable=(0, 1)),
            Sample((offsets(2, 3), boxes(3)), differentiable=(0, 1)),
            Sample((offsets(3, 2), boxes(3, 1), WEIGHTS[0], 0.55), differentiable=(0, 1)),
            Sample((offsets(0, 4), boxes(0, 1)), differentiable=(0, 1)),
        ],
        device,
    )


@pytest.mark.parametrize("leading", [(4, 300), (300, 3), (300, 1), (1, 7), (2, 3, 40), (0, 5)])
def test_broadcasting(device: torch.device, leading: tuple[int, ...]) -> None:
    """Anchors of any broadcastable shape, row by row the same as when expanded; their gradient is the sum."""
    deltas, ground_truth = offsets(*leading).to(device), boxes(*leading).to(device)
    for axes in range(1 << len(leading)):
        shape = [size if axes >> d & 1 else 1 for d, size in enumerate(leading)]
        anchors = boxes(*shape).to(device).requires_grad_()
        whole = anchors.detach().expand(*leading, 4).reshape(-1, 4).requires_grad_()
        for function, t in ((decode_boxes, deltas), (encode_boxes, ground_truth)):
            actual, expected = function(t, anchors), function(t.reshape(-1, 4), whole)
            assert_equal(actual.detach(), expected.detach().view(*leading, 4))
            grad = torch.rand_like(actual)
            (d_anchors,) = torch.autograd.grad(actual, anchors, grad)
            (d_whole,) = torch.autograd.grad(expected, whole, grad.view(-1, 4))
            torch.testing.assert_close(d_anchors, d_whole.view(*leading, 4).sum_to_size(anchors.shape))


def test_layouts(device: torch.device) -> None:
    """Gaps, reversed axes, a stride of 0, offsets that are not aligned."""
    deltas, anchors = offsets(70, 3).float().to(device), boxes(70, 3).float().to(device)
    expected = decode_boxes(deltas, anchors)

    def layouts(t: Tensor) -> list[Tensor]:
        shifted = torch.empty(t.numel() + 1, device=device)[1:].view(t.shape).copy_(t)
        padded = torch.zeros(70, 4, 5, device=device)
        padded[:, 1:, 1:] = t
        return [t, shifted, padded[:, 1:, 1:], t.permute(1, 2, 0).contiguous().permute(2, 0, 1)]

    for d in layouts(deltas):
        for a in layouts(anchors):
            assert_equal(decode_boxes(d, a), expected)


def test_gradient_of_what_is_clipped(device: torch.device) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]], device=device)
    deltas = torch.tensor([[0.9, 0, 5, 0]], device=device, requires_grad=True)
    box = decode_boxes(deltas, anchors, clip=0.0, image_size=(100, 12))
    assert box.tolist() == [[9, 0, 12, 10]]
    (grad,) = torch.autograd.grad(box.sum(), deltas)
    assert grad.tolist() == [[10, 20, 0, 0]]  # x2 and dw are clipped; that y1 lies on the border is not


def test_gradients_only_where_needed(device: torch.device) -> None:
    for function, first in ((decode_boxes, offsets(9)), (encode_boxes, boxes(9))):
        for i in range(2):
            args = [first.to(device).clone(), boxes(9).to(device)]
            args[i].requires_grad_()
            function(*args).sum().backward()
            assert args[i].grad is not None and args[1 - i].grad is None


def test_dtypes(device: torch.device) -> None:
    """Offsets in half precision from anchors in float32: computed in float32, rounded once."""
    deltas, anchors = offsets(50).to(device), (boxes(50) + 1000.0625).to(device)
    expected = decode_boxes(deltas, anchors)
    for dtype in (torch.float16, torch.bfloat16):
        leaf, others = deltas.to(dtype).requires_grad_(), anchors.float().requires_grad_()
        actual = decode_boxes(leaf, others)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
        grads = torch.autograd.grad(actual.sum(), (leaf, others))
        assert grads[0].dtype == dtype and grads[1].dtype == torch.float32
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert_equal(decode_boxes(leaf, others), actual)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 300), st.sampled_from(WEIGHTS))
def test_one_is_the_inverse_of_the_other(seed: int, n: int, weights: tuple[float, ...]) -> None:
    torch.manual_seed(seed)
    corner, size = torch.rand(2, n, 2, dtype=torch.float64) * 1000, torch.rand(2, n, 2, dtype=torch.float64) * 400 + 1
    ground_truth, anchors = torch.cat([corner, corner + size], -1)
    deltas = encode_boxes(ground_truth, anchors, weights)
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(decode_boxes(deltas, anchors, weights, clip=math.inf), ground_truth, **close)
    move = torch.rand(4, dtype=torch.float64)[[0, 1, 0, 1]] * 100
    torch.testing.assert_close(encode_boxes(ground_truth + move, anchors + move, weights), deltas, **close)
    torch.testing.assert_close(encode_boxes(ground_truth * 4, anchors * 4, weights), deltas, **close)
    inside = decode_boxes(deltas, anchors, weights, image_size=(300, 500))
    assert (inside >= 0).all() and (inside <= torch.tensor([500, 300, 500, 300])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponential_and_logarithm(device: torch.device, dtype: torch.dtype) -> None:
    """Through the operators: within 2 units in the last place, at the ends of the range too."""
    least, most = (-104, 89) if dtype == torch.float32 else (-746, 710)
    x = torch.cat([torch.linspace(least, most, 4001), torch.linspace(-1, 1, 2001), torch.tensor([0.0])]).to(dtype)
    zeros = torch.zeros_like(x)
    unit = torch.tensor([[0, 0, 1, 1]], dtype=dtype, device=device)
    sizes = decode_boxes(torch.stack([zeros, zeros, x, x], 1).to(device), unit - 0.5, clip=math.inf)[:, 2].cpu() * 2
    exact = [math.exp(v) if v < 709.7 else math.inf for v in x.tolist()]
    for value, expected in zip(sizes.tolist(), torch.tensor(exact, dtype=dtype).tolist(), strict=True):
        ulp = 2.0 ** (math.frexp(expected)[1] - (24 if dtype == torch.float32 else 53)) if expected < math.inf else 0
        tiny = 2.0**-149 if dtype == torch.float32 else 5e-324
        assert value == expected or abs(value - expected) <= 2 * max(ulp, tiny), (value, expected)
    y = torch.cat([torch.logspace(-37, 38, 2001, dtype=torch.float64), torch.linspace(0.5, 2, 2001)]).to(dtype)
    logs = encode_boxes(torch.stack([0 * y, 0 * y, y, y], 1).to(device), unit)[:, 2].cpu()
    torch.testing.assert_close(logs, y.double().log().to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_values_without_meaning(device: torch.device) -> None:
    nan, inf = math.nan, math.inf
    anchors = torch.tensor([[0.0, 0, 10, 10]], device=device)
    odd = torch.tensor([[nan, 0, 0, 0], [inf, 0, 0, 0], [0, 0, inf, -inf], [1e30, -1e30, 1e30, -1e30]], device=device)
    decoded = decode_boxes(odd, anchors, image_size=(800, 1200))
    assert decoded[0, 0].isnan() and decoded[0, 2].isnan() and decoded[0, 1] == 0 and decoded[0, 3] == 10
    assert decoded[1].tolist() == [1200, 0, 1200, 10]
    assert decoded[2].tolist() == pytest.approx([0, 5, 317.5, 5])
    assert decoded[3].tolist() == [1200, 0, 1200, 0]
    flat = torch.tensor([[5.0, 5, 5, 9]], device=device)
    assert encode_boxes(flat, anchors)[0, 2] == -inf
    assert not encode_boxes(anchors, flat).isfinite().all()
    assert encode_boxes(odd[:1], anchors).isnan()[0, 0]
    for boxes_, others in ((odd, anchors), (anchors.expand(4, 4), odd), (odd, odd)):
        for function in (encode_boxes, decode_boxes):
            a, b = boxes_.clone().requires_grad_(), others.clone().requires_grad_()
            torch.autograd.grad(function(a, b).sum(), (a, b))


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    deltas, anchors, results = offsets(300_000).float(), boxes(300_000).float(), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = deltas.clone().requires_grad_()
            decoded = decode_boxes(leaf, anchors, image_size=(30, 30))
            results.append((decoded.detach(), torch.autograd.grad(decoded.sum(), leaf)[0]))
    finally:
        torch.set_num_threads(before)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("fake", [False, True])
def test_bad_inputs(device: torch.device, fake: bool) -> None:
    where = torch.device("meta") if fake else device
    four, three = torch.zeros(3, 4, device=where), torch.zeros(3, 3, device=where)
    for function, name in ((encode_boxes, "boxes"), (decode_boxes, "deltas")):
        op = function.__name__
        for args, message in (
            ((three, four), rf"{op}: expected {name} of shape \(\*, 4\), got \(3, 3\)"),
            (
                (four, three),
                rf"{op}: expected anchors of a shape that broadcasts to that of {name}, \(3, 4\), got \(3, 3\)",
            ),
            (
                (four, four[:2]),
                rf"{op}: expected anchors of a shape that broadcasts to that of {name}, \(3, 4\), got \(2, 4\)",
            ),
            (
                (four, four[None]),
                rf"{op}: expected anchors of a shape that broadcasts to that of {name}, \(3, 4\), got \(1, 3, 4\)",
            ),
            ((torch.zeros(2, 3, 5, 4, device=where), four), rf"{op}: expected"),
            ((four.int(), four), rf"{op}: expected {name} of dtype float32, float64, float16 or bfloat16, got int32"),
            ((four, four.bool()), rf"{op}: expected anchors of dtype float32, float64, float16 or bfloat16, got bool"),
            ((four, torch.zeros(3, 4, device="cpu" if fake else "meta")), "device|Meta|meta"),
        ):
            with pytest.raises(RuntimeError, match=message):
                function(*args)
        with pytest.raises(ValueError, match=rf"{op}: expected weights \(wx, wy, ww, wh\), got \(1, 2\)"):
            function(four, four, (1, 2))
    with pytest.raises(ValueError, match=r"decode_boxes: expected image_size \(height, width\), got \(1, 2, 3\)"):
        decode_boxes(four, four, image_size=(1, 2, 3))  # type: ignore[arg-type]
    backward = torch.ops.detops.encode_boxes_backward
    with pytest.raises(RuntimeError, match=r"encode_boxes_backward: expected grad of the shape of boxes, \(3, 4\)"):
        backward(four[:2], four, four, 1, 1, 1, 1, True, True)


@pytest.mark.one_instruction_set
@pytest.mark.parametrize("coder", [encode_boxes, decode_boxes])
def test_no_second_derivative(device: torch.device, coder) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 6, 5]], device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(coder(boxes, boxes.detach()).sum(), boxes, create_graph=True)
    message = f"{coder.__name__}: expected to be differentiated once, got a second derivative"
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()
