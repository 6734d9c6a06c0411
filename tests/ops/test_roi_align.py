import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import detops
from detops.ops import RoIAlign, roi_align

INF, NAN = math.inf, math.nan
FIXED = settings(max_examples=25, deadline=None, derandomize=True)


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Value of a map at a point; the nearest pixel up to one outside, beyond that 0."""
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = plane[top][left] * (1 - u) + plane[top][right] * u
    lower = plane[bottom][left] * (1 - u) + plane[bottom][right] * u
    return upper * (1 - v) + lower * v


def reference(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float = 1.0, ratio: int = -1, aligned: bool = False
) -> Tensor:
    """From the paper, point by point, in plain Python."""
    maps, (rows, columns) = features.double().tolist(), size
    output = torch.zeros(len(rois), features.shape[1], rows, columns, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        shift = 0.5 if aligned else 0.0
        x, y = x1 * scale - shift, y1 * scale - shift
        w, h = (x2 - x1) * scale, (y2 - y1) * scale
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        down = ratio if ratio > 0 else math.ceil(h / rows)
        across = ratio if ratio > 0 else math.ceil(w / columns)
        for c, plane in enumerate(maps[int(image)]):
            for p in range(rows):
                for q in range(columns):
                    samples = [
                        bilinear(
                            plane, y + (p + (i + 0.5) / down) * h / rows, x + (q + (j + 0.5) / across) * w / columns
                        )
                        for i in range(down)
                        for j in range(across)
                    ]
                    output[k, c, p, q] = sum(samples) / max(len(samples), 1)
    return output


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions on and over the edge of a map, some far out; coordinates in quarters, exact in every dtype."""
    corners = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = torch.randint(1, 4 * max(height, width), (k, 2)) / 4
    return torch.cat([torch.randint(images, (k, 1)), corners, corners + sizes], dim=1).double()


def small_input(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.randint(-16, 16, (n, c, h, w)).double() / 8


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 17, 12, 5), (2, 40, 6, 33)])
@pytest.mark.parametrize("ratio", [-1, 1, 2, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_matches_the_paper(device: torch.device, shape: tuple[int, int, int, int], ratio: int, aligned: bool) -> None:
    features, rois = small_input(*shape), random_rois(6, shape[0], *shape[2:])
    size = (3, 2) if ratio != 2 else (5, 7)
    expected = reference(features[:, :3], rois, size, 0.5, ratio, aligned)
    for layout in (torch.contiguous_format, torch.channels_last):
        actual = roi_align(features.to(device, memory_format=layout), rois.to(device), size, 0.5, ratio, aligned).cpu()
        assert actual.shape == (6, shape[1], *size) and actual.dtype == torch.float64
        torch.testing.assert_close(actual[:, :3], expected, rtol=1e-9, atol=1e-12)
        single = roi_align(features.float().to(device), rois.float().to(device), size, 0.5, ratio, aligned).cpu()
        torch.testing.assert_close(single, actual.float(), rtol=1e-4, atol=1e-5)


def test_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).to(device)  # value 4 y + x

    def pooled(box: list[float], size: int, ratio: int, aligned: bool) -> list[float]:
        return roi_align(ramp, [torch.tensor([box], device=device)], size, 1.0, ratio, aligned).flatten().tolist()

    assert pooled([0, 0, 2, 2], 1, 1, False) == [5.0]  # one sample at (1, 1)
    assert pooled([0, 0, 2, 2], 1, 1, True) == [2.5]  # at (0.5, 0.5)
    assert pooled([0, 0, 2, 2], 2, 1, False) == [2.5, 3.5, 6.5, 7.5]
    assert pooled([1, 1, 1, 1], 1, 1, False) == [7.5]  # no smaller than a pixel: at (1.5, 1.5)
    assert pooled([1, 1, 1, 1], 1, 1, True) == [2.5]  # of no size: at (0.5, 0.5)
    assert pooled([-2, -2, 0, 0], 1, 1, False) == [0.0]  # at (-1, -1): still the corner pixel, which is 0
    assert pooled([2, 2, 6, 6], 1, 1, False) == [15.0]  # at (4, 4): still the last pixel
    assert pooled([2, 2, 6.5, 6], 1, 1, False) == [0.0]  # at (4.25, 4): outside
    assert pooled([2, 0, 6, 2], 1, 2, False) == [3.5]  # 5 and 9 at x = 3, both 0 at x = 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [7, (14, 14), (1, 3)])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, channels_last: bool, size: int) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.roi_align
    features = torch.randn(2, 37, 25, 38).to(dtype)
    rois = random_rois(25, 2, 25, 38)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    wide = torch.promote_types(dtype, torch.float32)  # torchvision sums half in half
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 4e-3}[dtype]
    for ratio, aligned in ((2, False), (0, False), (2, True), (0, True), (3, True)):
        theirs = features.to(wide).detach().clone().requires_grad_()
        ours = features.to(device).detach().requires_grad_()
        expected = peer(theirs, rois.to(wide), size, 0.75, ratio, aligned)
        actual = roi_align(ours, rois.to(device, wide), size, 0.75, ratio, aligned)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.to("cpu", wide), expected, rtol=tolerance, atol=tolerance)
        grad = torch.randn_like(expected).to(dtype)
        (expected_grad,) = torch.autograd.grad(expected, theirs, grad.to(wide))
        (actual_grad,) = torch.autograd.grad(actual, ours, grad.to(device))
        scale = expected_grad.abs().max().item()
        torch.testing.assert_close(actual_grad.to("cpu", wide), expected_grad, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    empty_boxes = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((small_input(2, 3, 6, 5), random_rois(4, 2, 6, 5), 2, 1.0, 2, True), differentiable=(0,)),
        Sample((small_input(2, 18, 4, 5), random_rois(3, 2, 4, 5), (1, 2), 0.5), differentiable=(0,)),
        Sample((small_input(2, 3, 6, 5), empty_boxes, 2), differentiable=(0,)),
        Sample((small_input(1, 0, 6, 5), random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((small_input(1, 3, 0, 5), random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((torch.zeros(0, 3, 4, 4, dtype=torch.float64), empty_boxes, 2), differentiable=(0,)),
    ]
    check_operator(roi_align, samples, device, second_derivative=True)


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 20), st.integers(1, 40), st.integers(-1, 3))
def test_a_constant_map_pools_to_the_constant(seed: int, channels: int, height: int, width: int, ratio: int) -> None:
    torch.manual_seed(seed)
    corner = torch.rand(5, 2) * torch.tensor([width, height])
    rois = torch.cat(
        [torch.zeros(5, 1), corner, corner + torch.rand(5, 2) * (torch.tensor([width, height]) - corner)], 1
    )
    rois[:, 3:] = torch.maximum(rois[:, 3:], rois[:, 1:3] + 1e-3)
    pooled = roi_align(torch.full((1, channels, height, width), 3.0), rois, (3, 4), 1.0, ratio, aligned=True)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.0), rtol=1e-5, atol=1e-5)


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 12), st.booleans())
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int, channels_last: bool) -> None:
    """A region depends neither on the others nor on their order; a map shifted with its boxes is the same."""
    torch.manual_seed(seed)
    features, rois = torch.randn(2, channels, 24, 40), random_rois(k, 2, 16, 16)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    order = torch.randperm(k)
    pooled = roi_align(features, rois, 3, 1.0, 2)
    assert torch.equal(roi_align(features, rois[order], 3, 1.0, 2), pooled[order])
    assert torch.equal(torch.cat([roi_align(features, roi[None], 3, 1.0, 2) for roi in rois]), pooled)
    inside = rois.clamp(min=0)
    moved = torch.nn.functional.pad(features, (8, 0, 4, 0))[:, :, 4:, 8:]
    assert torch.equal(roi_align(moved, inside, 3, 1.0, 2), roi_align(features, inside, 3, 1.0, 2))


@FIXED
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 16, 33]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gradient_is_the_transpose(seed: int, channels: int, dtype: torch.dtype) -> None:
    """<roi_align(x), g> = <x, gradient(g)> for any x and g."""
    torch.manual_seed(seed)
    features = torch.randn(2, channels, 13, 19).to(dtype).requires_grad_()
    rois = random_rois(7, 2, 13, 19).float()
    pooled = roi_align(features, rois, (2, 5), 1.0, 0)
    grad = torch.randn_like(pooled)
    (back,) = torch.autograd.grad(pooled, features, grad)
    left, right = (pooled.double() * grad.double()).sum(), (features.double() * back.double()).sum()
    scale = (pooled.double() * grad.double()).abs().sum().item() + 1
    assert abs(left - right).item() <= 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -1e30, 3e38])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_values_without_meaning(device: torch.device, value: float, ratio: int, aligned: bool) -> None:
    """Neither crash nor endless loop: such samples lie outside, and count as zero; other regions do not notice."""
    features = torch.randn(1, 20, 12, 15, device=device, requires_grad=True)
    good = [0.0, 1.0, 2.0, 9.0, 8.0]
    rows = [good] + [[*good[:i], value, *good[i + 1 :]] for i in range(1, 5)] + [[0.0] + [value] * 4]
    rows += [[0.0, -abs(value), -abs(value), abs(value), abs(value)]]
    rois = torch.tensor(rows, device=device)
    pooled = roi_align(features, rois, 4, 1.0, ratio, aligned)
    assert torch.equal(pooled[:1], roi_align(features, rois[:1], 4, 1.0, ratio, aligned))
    assert pooled.isfinite().all() and (pooled[-2] == 0).all()
    if not math.isfinite(value):
        assert (pooled[-1] == 0).all()
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert grad.isfinite().all()


def test_reversed_and_empty_boxes(device: torch.device) -> None:
    features = torch.randn(1, 5, 12, 15, device=device, dtype=torch.float64)
    box = torch.tensor([[0.0, 9.0, 8.0, 2.0, 1.0]], device=device)
    forward = box[:, [0, 3, 4, 1, 2]]
    assert torch.equal(roi_align(features, box, 3), roi_align(features, box[:, [0, 1, 2, 1, 2]], 3))  # at least a pixel
    assert (roi_align(features, box, 3, aligned=True) == 0).all()  # no sample
    mirrored = roi_align(features, box, 3, sampling_ratio=2, aligned=True).flip(2, 3)
    torch.testing.assert_close(mirrored, roi_align(features, forward, 3, sampling_ratio=2, aligned=True))


def test_a_long_bin_is_its_mean(device: torch.device) -> None:
    """A region a thousand times the map has a thousand times the samples, all but a few outside."""
    features = torch.ones(1, 3, 10, 10, device=device, dtype=torch.float64)
    pooled = roi_align(features, torch.tensor([[0.0, -5000.0, 0.0, 5000.0, 10.0]], device=device), 1)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 11e-4), rtol=0.01, atol=0)


def test_nan_in_the_map_stays_where_it_is(device: torch.device) -> None:
    features = torch.randn(1, 20, 30, 30, device=device)
    boxes = torch.tensor([[0.0, 2.0, 2.0, 9.0, 9.0], [0.0, 12.0, 12.0, 20.0, 20.0]], device=device)
    clean = roi_align(features, boxes, 7, 1.0, 2)
    features[:, :, 5, 5] = NAN
    pooled = roi_align(features, boxes, 7, 1.0, 2)
    assert pooled[0].isnan().any() and not pooled[0].isnan().all()
    assert torch.equal(pooled[1], clean[1])


@pytest.mark.parametrize("shape", [(1, 64, 50, 60), (3, 5, 40, 70), (1, 2, 200, 300), (2, 20, 9, 9)])
@pytest.mark.threads
def test_threads(shape: tuple[int, int, int, int]) -> None:
    """Any number of them gives the same bits, forward and backward."""
    before, results = torch.get_num_threads(), []
    features, rois = torch.randn(shape), random_rois(2000, shape[0], *shape[2:]).float()
    grad = torch.randn(2000, shape[1], 7, 7)
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                leaf = features.to(memory_format=layout).requires_grad_()
                pooled = roi_align(leaf, rois, 7, 1.0, 2)
                results.append((pooled.detach(), torch.autograd.grad(pooled, leaf, grad)[0]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_equal(result, results[0])


def test_layout_is_kept(device: torch.device) -> None:
    features = torch.randn(2, 24, 10, 12, device=device).to(memory_format=torch.channels_last).requires_grad_()
    pooled = roi_align(features, random_rois(5, 2, 10, 12).to(device), 3)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(pooled.sum(), features)  # an expanded gradient
    assert grad.is_contiguous(memory_format=torch.channels_last)
    window = torch.randn(2, 40, 30, 30, device=device)[:, 3:30, 5:-4, 2:20]
    rois = random_rois(5, 2, 10, 12).to(device)
    assert torch.equal(roi_align(window, rois, 3), roi_align(window.contiguous(), rois, 3))


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    features = torch.randn(3, 4, 10, 12, device=device)
    boxes = [random_rois(n, 1, 10, 12)[:, 1:].float().to(device) for n in (2, 0, 3)]
    rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i), device=device), b], 1) for i, b in enumerate(boxes)])
    expected = roi_align(features, rois, (2, 3), 0.5, 2, True)
    assert torch.equal(roi_align(features, boxes, (2, 3), 0.5, 2, True), expected)
    module = RoIAlign((2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)
    assert torch.equal(module(features, boxes), expected)
    assert repr(module) == "RoIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    for dtype in (torch.float16, torch.bfloat16):
        low = roi_align(features.to(dtype), rois, (2, 3), 0.5, 2, True)
        assert low.dtype == dtype
        assert torch.equal(low, roi_align(features.to(dtype).float(), rois, (2, 3), 0.5, 2, True).to(dtype))
        assert torch.equal(low, roi_align(features.to(dtype), rois.to(dtype), (2, 3), 0.5, 2, True))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert torch.equal(roi_align(features.to(dtype), rois, (2, 3), 0.5, 2, True), low)
    fine = rois.double() + 1e-9
    torch.testing.assert_close(roi_align(features, fine, 2), roi_align(features.double(), fine, 2).float())


BAD = [
    ({"input": torch.ones(3, 4, 4)}, r"expected input of shape \(\*, \*, \*, \*\), got \(3, 4, 4\)"),
    ({"input": torch.ones(1, 3, 4, 4, dtype=torch.int64)}, "expected input of dtype float32, .*, got int64"),
    ({"boxes": torch.ones(2, 4)}, r"expected rois of shape \(\*, 5\), got \(2, 4\)"),
    ({"boxes": torch.ones(2, 5).long()}, "expected rois of dtype float32, .*, got int64"),
    ({"boxes": torch.ones(2, 5, device="meta")}, "expected rois on the device of input, .*, got"),
    ({"boxes": [torch.ones(2, 5)]}, r"expected boxes\[0\] of shape \(\*, 4\), got \(2, 5\)"),
    ({"boxes": []}, "expected boxes of at least one image, got an empty list"),
    ({"output_size": 0}, "expected pooled_height of at least 1, got 0"),
    ({"output_size": (2, -1)}, "expected pooled_width of at least 1, got -1"),
    ({"output_size": (2, 2, 2)}, "expected output_size of one or two numbers, got"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    arguments = {"input": torch.ones(1, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2}
    with pytest.raises(RuntimeError, match=f"^roi_align: {message}"):
        roi_align(**{**arguments, **change})


@pytest.mark.parametrize("change", [change for change, _ in BAD[:4]] + [change for change, _ in BAD[7:9]])
def test_traced_programs_say_the_same(change: dict[str, object]) -> None:
    arguments = {"input": torch.ones(1, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2, **change}
    with pytest.raises(RuntimeError) as eager:
        roi_align(**arguments)
    with pytest.raises(RuntimeError) as traced:
        roi_align(**{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()})
    assert str(traced.value) == str(eager.value)


@pytest.mark.parametrize("channels_last", [False, True])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, channels_last: bool) -> None:
    """There nobody can look: such a region is zero and passes no gradient."""
    features = torch.ones(2, 4, 4, 4, device=gpu)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    features.requires_grad_()
    indices = torch.tensor([1.0, -1.0, 2.0, NAN, INF, -INF, 1e30, 0.0], device=gpu)
    rois = torch.cat([indices[:, None], torch.tensor([0.0, 0, 2, 2], device=gpu).expand(8, 4)], dim=1)
    pooled = roi_align(features, rois, 2)
    assert (pooled[1:-1] == 0).all() and (pooled[[0, -1]] == 1).all()
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    possible = rois[[0, -1]]
    assert torch.equal(grad, torch.autograd.grad(roi_align(features, possible, 2).sum(), features)[0])
    assert (roi_align(features[:0], rois, 2) == 0).all()


def test_too_much_for_a_gpu(gpu: torch.device) -> None:
    """Its tables count in 32 bits."""
    none = torch.zeros(1, 0, 1, 1, device=gpu)
    with pytest.raises(RuntimeError, match=r"^roi_align: expected at most 2\^31 - 1 rois, got 2147483648"):
        roi_align(none, torch.zeros(1, 5, device=gpu).expand(2**31, 5), 1)
    with pytest.raises(
        RuntimeError, match=r"^roi_align: expected at most 2\^31 - 1 rows and columns, got 2147483648, 1"
    ):
        roi_align(none.expand(1, 0, 2**31, 1), torch.zeros(1, 5, device=gpu), 1)


def test_many_regions(device: torch.device) -> None:
    """More than are listed at a time, most of them elsewhere, some reversed; each shares pixels with others."""
    features, rois = small_input(2, 9, 20, 23), random_rois(300, 2, 20, 23)
    rois[::7] = rois[::7, [0, 3, 4, 1, 2]]
    size, expected = (2, 70), torch.zeros_like(features)
    grad = torch.randint(-4, 5, (300, 9, *size)).double()
    for some, grad_of_some in zip(rois.split(50), grad.split(50), strict=True):
        leaf = features.clone().requires_grad_()
        expected += torch.autograd.grad(roi_align(leaf, some, size, 1.0, 2, True), leaf, grad_of_some)[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = features.to(device, memory_format=layout).requires_grad_()
        pooled = roi_align(leaf, rois.to(device), size, 1.0, 2, True)
        (actual,) = torch.autograd.grad(pooled, leaf, grad.to(device, memory_format=layout))
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: too large to emulate")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_detector_s_size_on_a_gpu(dtype: torch.dtype) -> None:
    """As on the CPU, and the same bits each time."""
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.randn(2, 256, 200, 304).to(dtype=dtype, memory_format=layout)
        rois = random_rois(1000, 2, 200, 304).float() * torch.tensor([1.0, 4, 4, 4, 4])
        leaf = features.clone().requires_grad_()
        expected = roi_align(leaf, rois, 7, 0.25, 2)
        grad = torch.randn_like(expected)
        (expected_grad,) = torch.autograd.grad(expected, leaf, grad)
        results = []
        for _ in range(3):
            leaf = features.cuda().requires_grad_()
            actual = roi_align(leaf, rois.cuda(), 7, 0.25, 2)
            results.append((actual.detach(), torch.autograd.grad(actual, leaf, grad.cuda())[0]))
        assert_equal(results[1:], [results[0]] * 2)
        scale = expected_grad.abs().max().item()
        rtol = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(results[0][0].cpu(), expected.detach(), rtol=rtol, atol=rtol)
        torch.testing.assert_close(results[0][1].cpu(), expected_grad, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("index", [-1.0, 2.0, NAN, INF, -INF, 1e30])
def test_image_index_out_of_range(index: float) -> None:
    features, rois = torch.ones(2, 3, 4, 4), torch.tensor([[1.0, 0, 0, 2, 2], [index, 0, 0, 2, 2]])
    with pytest.raises(RuntimeError, match=r"^roi_align: expected rois\[:, 0\] from 0 to 1, got .* in row 1"):
        roi_align(features, rois, 2)
    with pytest.raises(RuntimeError, match=r"^roi_align_backward: expected rois\[:, 0\] from 0 to 1, got"):
        torch.ops.detops.roi_align_backward(torch.ones(2, 3, 2, 2), rois, 1.0, 2, 2, 2, 3, 4, 4, 0, False, False)
    truncated = torch.tensor([[1.9, 0, 0, 2, 2], [-0.9, 0, 0, 2, 2]])
    assert torch.equal(roi_align(features, truncated, 2), roi_align(features, truncated.trunc(), 2))


def test_number_of_regions_known_only_at_run_time() -> None:
    """Regions chosen inside one compiled program, any number of them, none included."""

    def program(features: Tensor, rois: Tensor, scores: Tensor) -> Tensor:
        return roi_align(features, rois[scores > 0.5], 2, 1.0, 2).square()

    torch.compiler.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
        features, rois = torch.randn(2, 3, 8, 8), random_rois(6, 2, 8, 8)
        for scores in (torch.linspace(0, 1, 6), torch.zeros(6), torch.ones(6), torch.eye(6)[2]):
            leaves = [features.clone().requires_grad_(), features.clone().requires_grad_()]
            actual, expected = compiled(leaves[0], rois, scores), program(leaves[1], rois, scores)
            assert_equal(actual, expected)
            assert_equal(torch.autograd.grad(actual.sum(), leaves[0]), torch.autograd.grad(expected.sum(), leaves[1]))


@pytest.mark.large
def test_more_than_two_billion_elements() -> None:
    """Offsets beyond 2^31, in the input and in the output; needs 9 GB."""
    features = torch.zeros(1, 2049, 1024, 1024, dtype=torch.float16)
    features[0, 2048] = 1
    pooled = roi_align(features, torch.tensor([[0.0, 900.0, 900.0, 1000.0, 1000.0]]), 2)
    assert (pooled[0, 2048] == 1).all() and (pooled[0, :2048] == 0).all()
    del features
    rois = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]).expand(21_500, 5)
    leaf = torch.ones(1, 2049, 2, 2, dtype=torch.bfloat16).requires_grad_()
    pooled = roi_align(leaf, rois, 7)
    assert pooled.numel() > 2**31 and (pooled[-1] == 1).all()
    (grad,) = torch.autograd.grad(pooled, leaf, torch.ones((), dtype=torch.bfloat16).expand_as(pooled))
    torch.testing.assert_close(grad.float().sum((2, 3)), torch.full((1, 2049), 21_500.0 * 49), rtol=0.01, atol=0)


def test_one_plane_too_wide_for_a_slab(device: torch.device) -> None:
    """Many channels of a map so wide that interleaving a region's rows would take gigabytes."""
    features = torch.zeros(1, 3, 64, 150_000, device=device)
    features[0, 1] = torch.linspace(0, 1, 150_000, device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 150_000.0, 63.0]], device=device)
    torch.testing.assert_close(
        roi_align(features, rois, 1)[0].flatten().cpu(), torch.tensor([0.0, 0.5, 0.0]), atol=1e-3, rtol=0
    )


def test_instruction_sets_agree() -> None:
    """Which samples count is decided alike; sums differ by their rounding alone."""
    features, rois, results = torch.randn(1, 20, 16, 16), random_rois(50, 1, 16, 16).float(), []
    before = detops._C.instruction_set()
    try:
        for name in detops._C.instruction_sets():
            detops._C.set_instruction_set(name)
            results.append(roi_align(features, rois, 7))
    finally:
        detops._C.set_instruction_set(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-6)
