import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import detops
from detops.ops import DeformConv2d, deform_conv2d

INF, NAN = math.inf, math.nan
FIXED = settings(max_examples=25, deadline=None, derandomize=True)
NAMES = ("input", "offset", "weight", "bias", "mask")
Pair = tuple[int, int]


def reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Equations 2 to 4 of the paper as they stand: each sample is a sum over all pixels of the map."""
    channels, height, width = input.shape[1:]
    outputs, connected, *kernel = weight.shape
    points = kernel[0] * kernel[1]
    offset_groups = offset.shape[1] // (2 * points)
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    result = 0.0 if bias is None else bias.view(1, -1, 1, 1)
    y0 = torch.arange(offset.shape[2]).double()[:, None] * stride[0] - padding[0]
    x0 = torch.arange(offset.shape[3]).double() * stride[1] - padding[1]
    for k in range(points):
        sampled = []
        for group, maps in enumerate(input.split(channels // offset_groups, dim=1)):
            at = group * points + k
            y = y0 + k // kernel[1] * dilation[0] + offset[:, 2 * at]
            x = x0 + k % kernel[1] * dilation[1] + offset[:, 2 * at + 1]
            by_row = (1 - (rows - y[..., None]).abs()).clamp(min=0)
            by_column = (1 - (columns - x[..., None]).abs()).clamp(min=0)
            values = torch.einsum("ncyx,npqy,npqx->ncpq", maps, by_row, by_column)
            sampled.append(values if mask is None else values * mask[:, at : at + 1])
        of_point = weight[:, :, k // kernel[1], k % kernel[1]]
        groups = torch.cat(sampled, 1).split(connected, dim=1)
        weights = of_point.split(outputs // len(groups))
        result = result + torch.cat(
            [torch.einsum("oc,ncpq->nopq", w, s) for w, s in zip(weights, groups, strict=True)], 1
        )
    return result


def sixteenths(*shape: int, most: int = 31) -> Tensor:
    """Odd ones, exact in every dtype; as offsets never at the border between two cells."""
    return (torch.randint(-most // 2, most // 2, shape) * 2 + 1).double() / 16


def arguments(
    images: int = 2,
    channels: int = 4,
    outputs: int = 6,
    size: Pair = (7, 6),
    kernel: Pair = (3, 3),
    stride: Pair = (1, 1),
    padding: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
    offset_groups: int = 1,
    mask: bool = True,
    bias: bool = True,
) -> tuple[Any, ...]:
    """In the order of the function."""
    points = kernel[0] * kernel[1]
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    return (
        sixteenths(images, channels, *size),
        sixteenths(images, 2 * offset_groups * points, *out),
        sixteenths(outputs, channels // groups, *kernel),
        sixteenths(outputs) if bias else None,
        stride,
        padding,
        dilation,
        sixteenths(images, offset_groups * points, *out) if mask else None,
    )


CASES: list[dict[str, Any]] = [
    {},
    {"mask": False, "bias": False},
    {"channels": 33, "outputs": 3, "size": (9, 11)},
    {"groups": 2, "offset_groups": 4, "stride": (2, 1), "kernel": (2, 3), "dilation": (1, 2)},
    {"channels": 12, "groups": 3, "offset_groups": 2, "padding": (0, 3), "mask": False},
    {"channels": 40, "outputs": 40, "groups": 40, "size": (5, 4), "images": 1},
    {"channels": 70, "outputs": 2, "offset_groups": 2, "groups": 2, "size": (4, 5), "dilation": (2, 1)},
    {"kernel": (1, 1), "padding": (0, 0), "bias": False},
    {"kernel": (5, 1), "padding": (4, 0), "stride": (3, 2), "images": 3, "channels": 1, "outputs": 1},
    {"size": (23, 31), "outputs": 2},
]


def leaves(args: tuple[Any, ...], device: torch.device | str, dtype: torch.dtype) -> tuple[tuple[Any, ...], list[Any]]:
    """The arguments elsewhere, and those of them that want a gradient."""
    moved = [t.to(device, dtype).detach().requires_grad_() if isinstance(t, Tensor) else t for t in args]
    return tuple(moved), [t for t in moved if isinstance(t, Tensor)]


def assert_agrees(actual: Any, expected: Any, tolerance: float) -> None:
    """To the largest value: sums may nearly cancel."""
    for a, e in zip(actual, expected, strict=True):
        scale = e.abs().max().item() if e.numel() else 1.0
        torch.testing.assert_close(a.double().cpu(), e.double(), rtol=tolerance, atol=tolerance * max(scale, 1e-3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_paper(device: torch.device, case: dict[str, Any]) -> None:
    args, wanted = leaves(arguments(**case), "cpu", torch.float64)
    expected = reference(*args)
    grad = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, wanted, grad)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        ours, wanted_of_ours = leaves(args, device, dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            actual = deform_conv2d(ours[0].contiguous(memory_format=layout), *ours[1:])
            assert actual.dtype == dtype and actual.device.type == device.type
            results = torch.autograd.grad(actual, wanted_of_ours, grad.to(actual))
            assert_agrees((actual, *results), (expected, *gradients), tolerance)


def test_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0, device=device).view(1, 1, 4, 4)  # value 4 y + x
    one = torch.ones(1, 1, 1, 1, device=device)

    def sampled(y: float, x: float, mask: float | None = None) -> float:
        """At (1 + y, 1 + x)."""
        offset = torch.zeros(1, 2, 4, 4, device=device)
        offset[0, :, 1, 1] = torch.tensor([y, x], device=device)
        masks = None if mask is None else torch.full((1, 1, 4, 4), mask, device=device)
        return deform_conv2d(ramp, offset, one, mask=masks)[0, 0, 1, 1].item()

    assert sampled(0, 0) == 5.0
    assert sampled(0.5, 0) == 7.0
    assert sampled(0.25, 0.5) == 6.5
    assert sampled(0.25, 0.5, mask=0.5) == 3.25
    assert sampled(2, 2) == 15.0
    assert sampled(2.5, 2) == 7.5  # half of it outside
    assert sampled(2.5, 2.5) == 3.75
    assert sampled(3, 0) == sampled(-2, 0) == sampled(0, 3) == sampled(0, -2) == 0.0
    assert sampled(-1.5, 1.0) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3), (6, 2)])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, masked: bool, groups: Pair) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.deform_conv2d
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    numbers = itertools.product(((1, 1), (2, 1)), ((0, 0), (1, 2)), ((1, 1), (1, 2)))
    for i, (stride, padding, dilation) in enumerate(numbers):
        kernel = ((3, 3), (1, 1), (2, 3))[i % 3]
        args = arguments(2, 18, 6, (9, 8), kernel, stride, padding, dilation, *groups, masked, bias=i % 2 == 0)
        args[1][0, 0] = torch.randint(-2, 3, args[1][0, 0].shape)  # some between cells, as when training begins
        ours, wanted = leaves(args, device, dtype)
        theirs, wanted_of_theirs = leaves(args, "cpu", dtype)
        actual, expected = deform_conv2d(*ours), peer(*theirs)
        grad = torch.randn_like(expected)
        gradients = torch.autograd.grad(expected, wanted_of_theirs, grad)
        results = torch.autograd.grad(actual, wanted, grad.to(device))
        assert_agrees((actual, *results), (expected, *gradients), tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_offsets_it_is_a_convolution(device: torch.device, case: dict[str, Any]) -> None:
    args, _ = leaves(arguments(**case), device, torch.float64)
    maps, offset, weight, bias, stride, padding, dilation, _ = args
    groups = maps.shape[1] // weight.shape[1]
    expected = F.conv2d(maps, weight, bias, stride, padding, dilation, groups)
    actual = deform_conv2d(maps, torch.zeros_like(offset), weight, bias, stride, padding, dilation)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@FIXED
@given(down=st.integers(-8, 8), right=st.integers(-8, 8), halves=st.booleans())
def test_equal_offsets_shift_the_map(down: int, right: int, halves: bool) -> None:
    """By whole pixels; by half ones too, as if the map had been averaged before."""
    maps, offset, weight, *_ = arguments()
    big = F.pad(maps, (20, 20, 20, 20))
    shifted = big.roll((-down, -right), (2, 3))
    if halves:
        shifted = (shifted + shifted.roll(-1, 2)) / 2
    expected = F.conv2d(shifted, weight)[..., 19:26, 19:25]
    same = torch.full_like(offset, float(right))
    same[:, 0::2] = down + 0.5 * halves
    torch.testing.assert_close(deform_conv2d(maps, same, weight, padding=1), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    def sample(args: tuple[Any, ...]) -> Sample:
        return Sample(args, differentiable=tuple(i for i, t in enumerate(args) if isinstance(t, Tensor)))

    samples = [
        sample(arguments(2, 2, 3, (3, 2), (2, 2))),
        sample(arguments(1, 6, 2, (2, 3), (1, 2), padding=(0, 1), groups=2, offset_groups=3, mask=False, bias=False)),
        sample(arguments(images=0)),
    ]
    check_operator(deform_conv2d, samples, device)


def test_empty(device: torch.device) -> None:
    for case in ({"images": 0}, {"outputs": 0}, {"size": (0, 3), "padding": (2, 1)}):
        args, wanted = leaves(arguments(**case), device, torch.float32)
        result = deform_conv2d(*args)
        assert result.shape == (args[0].shape[0], args[2].shape[0], *args[1].shape[2:])
        for gradient, leaf in zip(torch.autograd.grad(result.sum(), wanted), wanted, strict=True):
            assert gradient.shape == leaf.shape and gradient.isfinite().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -1e30])
def test_samples_off_the_map_count_as_zero(device: torch.device, value: float) -> None:
    args = arguments()
    args[1][0, 4:6, 2] = value  # kernel point 2 of a row of pixels
    args[1][1, 7, 3, 3] = value
    far = args[1].clone()
    far[~(far.abs() < 1e3)] = 1e3
    outputs, gradients = [], []
    for offset in (args[1], far):
        ours, wanted = leaves((args[0], offset, *args[2:]), device, torch.float32)
        outputs.append(deform_conv2d(*ours))
        gradients.append(torch.autograd.grad(outputs[-1], wanted, torch.ones_like(outputs[-1])))
    assert outputs[0].isfinite().all()
    assert_equal(outputs[0], outputs[1])
    assert_equal(gradients[0], gradients[1])
    assert (gradients[0][1][0, 4:6, 2] == 0).all() and (gradients[0][-1][0, 2, 2] == 0).all()


def test_infinite_pixels_stay_where_they_are(device: torch.device) -> None:
    maps, offset, weight, bias, *rest = arguments()
    expected = deform_conv2d(
        *(t.to(device) if isinstance(t, Tensor) else t for t in (maps, offset, weight, bias, *rest))
    )
    maps[0, :, 0, 0] = INF
    offset[0, :, 4:] = 100.0  # off the map
    actual = deform_conv2d(*(t.to(device) if isinstance(t, Tensor) else t for t in (maps, offset, weight, bias, *rest)))
    assert (actual[0, :, 4:] == bias.to(device)[:, None, None]).all()
    assert_equal(actual[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(device: torch.device, dtype: torch.dtype) -> None:
    args = arguments(channels=16, outputs=16)
    low, wanted = leaves(args, device, dtype)
    high, wanted_of_high = leaves(args, device, torch.float64)
    actual, expected = deform_conv2d(*low), deform_conv2d(*high)
    grad = sixteenths(*expected.shape).to(device)
    results = torch.autograd.grad(actual, wanted, grad.to(dtype))
    assert all(r.dtype == dtype for r in results)
    gradients = torch.autograd.grad(expected, wanted_of_high, grad)
    assert_agrees(results, [g.cpu() for g in gradients], 6 * torch.finfo(dtype).eps)


def test_offsets_of_another_dtype(device: torch.device) -> None:
    maps, offset, weight, bias, stride, padding, dilation, mask = arguments()
    rest = (bias.to(device, torch.float16), stride, padding, dilation)
    half = [t.to(device, torch.float16) for t in (maps, weight)]
    expected = deform_conv2d(half[0], offset.to(device), half[1], *rest, mask.to(device))
    assert expected.dtype == torch.float16
    for dtype, of_mask in itertools.product((torch.float32, torch.bfloat16), (torch.float64, torch.float16)):
        offsets, masks = offset.to(device, dtype).requires_grad_(), mask.to(device, of_mask).requires_grad_()
        actual = deform_conv2d(half[0], offsets, half[1], *rest, masks)
        assert_equal(actual, expected)
        grads = torch.autograd.grad(actual.sum(), (offsets, masks))
        assert grads[0].dtype == dtype and grads[1].dtype == of_mask


def test_autocast(device: torch.device) -> None:
    args, wanted = leaves(arguments(), device, torch.float32)
    low = args[0].detach().bfloat16()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        actual = deform_conv2d(*args)
        from_low = deform_conv2d(low, *args[1:])
    assert actual.dtype == torch.float32 and from_low.dtype == torch.bfloat16
    assert_equal(actual, deform_conv2d(*args))
    assert_equal(from_low, deform_conv2d(low.float(), *args[1:]).bfloat16())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        inside = torch.autograd.grad(actual.sum(), wanted)
    assert_equal(inside, torch.autograd.grad(deform_conv2d(*args).sum(), wanted))


@pytest.mark.parametrize(
    "wanted", [*itertools.combinations(NAMES, 1), ("input", "mask"), ("offset", "weight")], ids=str
)
def test_only_the_gradients_that_are_wanted(device: torch.device, wanted: tuple[str, ...]) -> None:
    args, tensors = leaves(arguments(groups=2), device, torch.float32)
    result = deform_conv2d(*args)
    expected = dict(zip(NAMES, torch.autograd.grad(result, tensors, torch.ones_like(result)), strict=True))
    for name, tensor in zip(NAMES, tensors, strict=True):
        tensor.requires_grad_(name in wanted)
    some = deform_conv2d(*args)
    some.backward(torch.ones_like(some))
    for name, tensor in zip(NAMES, tensors, strict=True):
        if name in wanted:
            assert_equal(tensor.grad, expected[name])
        else:
            assert tensor.grad is None


@pytest.mark.threads
def test_any_number_of_threads(device: torch.device) -> None:
    args, wanted = leaves(arguments(3, 64, 32, (40, 37), offset_groups=2), device, torch.float32)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        result = deform_conv2d(*args)
        results.append((result, *torch.autograd.grad(result, wanted, torch.ones_like(result))))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert_agrees([t.detach().cpu() for t in other], [t.detach().cpu() for t in results[0]], 1e-5)


WRONG: list[tuple[str, dict[str, Any]]] = [
    (r"expected input of dtype float32, .*, got int64", {"input": torch.zeros(1, 4, 5, 5, dtype=torch.int64)}),
    (r"expected input of shape \(\*, \*, \*, \*\), got \(4, 5, 5\)", {"input": torch.zeros(4, 5, 5)}),
    (r"expected weight of the dtype of input, float32, got float64", {"weight": torch.zeros(6, 4, 3, 3).double()}),
    (r"expected weight of shape \(\*, 4 / groups, \*, \*\), got \(6, 3, 3, 3\)", {"weight": torch.zeros(6, 3, 3, 3)}),
    (r"expected weight of shape \(\*, 4 / groups, \*, \*\), got \(6, 0, 3, 3\)", {"weight": torch.zeros(6, 0, 3, 3)}),
    (
        r"expected weight with output channels that 4 groups divide, got \(6, 1, 3, 3\)",
        {"weight": torch.zeros(6, 1, 3, 3)},
    ),
    (r"expected weight with a kernel of at least 1, got \(0, 3\)", {"weight": torch.zeros(6, 4, 0, 3)}),
    (r"expected stride of at least 1, got \(0, 1\)", {"stride": (0, 1)}),
    (r"expected padding of at least 0, got \(1, -1\)", {"padding": (1, -1)}),
    (r"expected dilation of at least 1, got \(0, 0\)", {"dilation": 0}),
    (r"expected stride of one or two numbers, got \(1, 2, 3\)", {"stride": (1, 2, 3)}),
    (r"expected input with padding no smaller than the kernel, \(9, 9\), got \(7, 7\)", {"dilation": 4}),
    (r"expected offset of shape \(1, 18, 5, 5\), got \(1, 18, 4, 5\)", {"offset": torch.zeros(1, 18, 4, 5)}),
    (r"expected offset of shape \(1, 18, 5, 5\), got \(1, 17, 5, 5\)", {"offset": torch.zeros(1, 17, 5, 5)}),
    (r"expected offset of shape \(1, 18, 5, 5\), got \(2, 18, 5, 5\)", {"offset": torch.zeros(2, 18, 5, 5)}),
    (r"expected offset with groups that divide the 4 channels of input, got 3", {"offset": torch.zeros(1, 54, 5, 5)}),
    (r"expected offset of dtype float32, .*, got int32", {"offset": torch.zeros(1, 18, 5, 5, dtype=torch.int32)}),
    (r"expected mask of shape \(1, 9, 5, 5\), got \(1, 18, 5, 5\)", {"mask": torch.zeros(1, 18, 5, 5)}),
    (r"expected mask of dtype float32, .*, got bool", {"mask": torch.zeros(1, 9, 5, 5, dtype=torch.bool)}),
    (r"expected bias of shape \(6\), got \(5\)", {"bias": torch.zeros(5)}),
    (r"expected bias of the dtype of input, float32, got float16", {"bias": torch.zeros(6).half()}),
]


@pytest.mark.parametrize(("message", "change"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("kind", ["", "meta"])
def test_says_what_was_wrong(device: torch.device, message: str, change: dict[str, Any], kind: str) -> None:
    right = {
        "input": torch.zeros(1, 4, 5, 5),
        "offset": torch.zeros(1, 18, 5, 5),
        "weight": torch.zeros(6, 4, 3, 3),
        "padding": 1,
    }
    args = {k: v.to(kind or device) if isinstance(v, Tensor) else v for k, v in (right | change).items()}
    with pytest.raises(RuntimeError, match=f"^deform_conv2d: {message}"):
        deform_conv2d(**args)


def test_all_on_one_device(device: torch.device) -> None:
    args = arguments()
    names = {1: "offset", 2: "weight", 3: "bias", 7: "mask"}
    for i, name in names.items():
        moved = [t.to("meta" if i == j else device) if isinstance(t, Tensor) else t for j, t in enumerate(args)]
        with pytest.raises(RuntimeError, match=f"deform_conv2d: expected {name} on the device of input"):
            deform_conv2d(*moved)


def test_no_second_derivative(device: torch.device) -> None:
    args, wanted = leaves(arguments(), device, torch.float64)
    (first,) = torch.autograd.grad(deform_conv2d(*args).sum(), wanted[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="deform_conv2d_backward: expected to be differentiated once"):
        first.sum().backward()


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": (1, 2), "dilation": (1, 2)}, {"groups": 2, "bias": False}, {"kernel_size": (2, 3)}],
    ids=str,
)
def test_module(device: torch.device, options: dict[str, Any]) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.DeformConv2d
    options = {"kernel_size": 3} | options
    torch.manual_seed(1)
    ours = DeformConv2d(4, 6, **options)
    torch.manual_seed(1)
    theirs = peer(4, 6, **options)
    assert repr(ours) == repr(theirs)
    assert_equal(dict(ours.state_dict()), dict(theirs.state_dict()))  # drawn alike
    assert ours.bias is None if theirs.bias is None else ours.bias is not None
    args = arguments(kernel=theirs.kernel_size, stride=theirs.stride, padding=theirs.padding, dilation=theirs.dilation)
    maps, offset, mask = (args[i].float() for i in (0, 1, 7))
    actual = ours.to(device)(maps.to(device), offset.to(device), mask.to(device)).cpu()
    torch.testing.assert_close(actual, theirs(maps, offset, mask), rtol=1e-4, atol=1e-4)


def test_module_says_what_was_wrong() -> None:
    with pytest.raises(ValueError, match="DeformConv2d: expected in_channels divisible by groups, 3, got 4"):
        DeformConv2d(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="DeformConv2d: expected out_channels divisible by groups, 4, got 6"):
        DeformConv2d(4, 6, 3, groups=4)


def test_names() -> None:
    assert detops.ops.deform_conv2d is deform_conv2d
    assert torch.ops.detops.deform_conv2d.default is not None
