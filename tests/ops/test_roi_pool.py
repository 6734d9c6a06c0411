import math

import pytest
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import RoIPool, roi_pool

INF, NAN = math.inf, math.nan
LOWEST = torch.finfo(torch.float32).min
FIXED = settings(max_examples=25, deadline=None, derandomize=True)


def half_away(x: float) -> int:
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def reference(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Largest values and where they lie in the plane (-1: nowhere), from the definition, in plain Python."""
    maps, (rows, columns) = features.double().tolist(), size
    height, width = features.shape[2:]
    output = torch.zeros(len(rois), features.shape[1], rows, columns, dtype=torch.float64)
    where = torch.full(output.shape, -1)
    for k, (image, *box) in enumerate(rois.double().tolist()):
        x1, y1, x2, y2 = (half_away(edge * scale) for edge in box)
        w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        for c, plane in enumerate(maps[int(image)]):
            for p in range(rows):
                ys = range(max(y1 + p * h // rows, 0), min(y1 - (-(p + 1) * h // rows), height))
                for q in range(columns):
                    xs = range(max(x1 + q * w // columns, 0), min(x1 - (-(q + 1) * w // columns), width))
                    pixels = [(y, x) for y in ys for x in xs]
                    if pixels:
                        y, x = max(pixels, key=lambda yx: plane[yx[0]][yx[1]])  # the first of equal ones
                        output[k, c, p, q], where[k, c, p, q] = plane[y][x], y * width + x
    return output, where


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions on and over the edge of a map, some far out; coordinates in quarters, exact in every dtype."""
    corners = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = torch.randint(1, 4 * max(height, width), (k, 2)) / 4
    return torch.cat([torch.randint(images, (k, 1)), corners, corners + sizes], dim=1).double()


def distinct_input(n: int, c: int, h: int, w: int) -> Tensor:
    """No two pixels alike, all exact in every dtype, so that the gradient exists."""
    assert h * w <= 64
    order = torch.rand(n, c, h * w).argsort(dim=-1)
    return (order.double() / 4 - 4).view(n, c, h, w)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 17, 12, 5), (2, 40, 6, 33)])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_matches_the_paper(
    device: torch.device, shape: tuple[int, int, int, int], size: tuple[int, int], scale: float
) -> None:
    """Values and, through the gradient, where they come from; few distinct values make many ties."""
    features, rois = torch.randint(-3, 3, shape).double(), random_rois(8, shape[0], *shape[2:])
    expected, where = reference(features[:, :3], rois, size, scale)
    grad = torch.randint(1, 9, (8, shape[1], *size)).double()
    expected_grad = torch.zeros(shape[0], min(shape[1], 3), shape[2] * shape[3], dtype=torch.float64)
    for k, (image, *_) in enumerate(rois.int().tolist()):
        for c in range(expected_grad.shape[1]):
            taken = where[k, c] >= 0
            expected_grad[image, c].index_add_(0, where[k, c][taken], grad[k, c][taken])
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float64, torch.float32):
            leaf = features.to(device, dtype, memory_format=layout).requires_grad_()
            actual = roi_pool(leaf, rois.to(device, dtype), size, scale)
            assert actual.dtype == dtype
            assert torch.equal(actual[:, :3].double().cpu(), expected)
            (actual_grad,) = torch.autograd.grad(actual, leaf, grad.to(device, dtype))
            assert torch.equal(actual_grad[:, :3].flatten(2).double().cpu(), expected_grad)


def test_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).to(device)

    def pooled(box: list[float], size: int) -> list[float]:
        return roi_pool(ramp, [torch.tensor([box], device=device)], size).flatten().tolist()

    assert pooled([0, 0, 3, 3], 2) == [5.0, 7.0, 13.0, 15.0]
    assert pooled([0, 0, 2, 2], 2) == [5.0, 6.0, 9.0, 10.0]  # 3 x 3 pixels: the bins share the middle ones
    assert pooled([0.5, 1.4, 0.5, 1.4], 1) == [5.0]  # rounds to pixel (1, 1)
    assert pooled([-0.5, 0, 0, 0], 2) == [0.0, 0.0, 0.0, 0.0]  # rounds to -1, outside: an empty column of bins
    assert pooled([3, 3, 5, 5], 1) == [15.0]
    assert pooled([7, 7, 9, 9], 1) == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [7, (14, 14), (1, 3)])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, channels_last: bool, size: int) -> None:
    """Every bit of the values; sums of gradients to rounding."""
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.roi_pool
    features = (torch.randn(2, 37, 25, 38) * 4).round().div(4).to(dtype)  # ties
    rois = random_rois(25, 2, 25, 38)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    wide = torch.promote_types(dtype, torch.float32)  # torchvision divides half-precision regions in half
    theirs = features.to(wide).detach().clone().requires_grad_()
    ours = features.to(device).detach().requires_grad_()
    expected, actual = peer(theirs, rois.to(wide), size, 0.75), roi_pool(ours, rois.to(device, wide), size, 0.75)
    assert actual.dtype == dtype and torch.equal(actual.to("cpu", wide), expected)
    grad = torch.randint(-8, 8, expected.shape).to(dtype)
    (expected_grad,) = torch.autograd.grad(expected, theirs, grad.to(wide))
    (actual_grad,) = torch.autograd.grad(actual, ours, grad.to(device))
    assert torch.equal(actual_grad.cpu(), expected_grad.to(dtype))  # whole numbers: no rounding


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    empty_boxes = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((distinct_input(2, 3, 6, 5), random_rois(4, 2, 6, 5), 2, 1.0), differentiable=(0,)),
        Sample((distinct_input(2, 18, 4, 5), random_rois(3, 2, 4, 5), (1, 2), 0.5), differentiable=(0,)),
        Sample((distinct_input(2, 3, 6, 5), empty_boxes, 2), differentiable=(0,)),
        Sample((distinct_input(1, 0, 6, 5), random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((distinct_input(1, 3, 0, 5), random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((torch.zeros(0, 3, 4, 4, dtype=torch.float64), empty_boxes, 2), differentiable=(0,)),
    ]
    check_operator(roi_pool, samples, device)


def test_second_derivative_is_refused() -> None:
    leaf = torch.randn(1, 1, 4, 4).requires_grad_()
    (grad,) = torch.autograd.grad(roi_pool(leaf, torch.zeros(1, 5), 1).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="roi_pool_backward: expected to be differentiated once"):
        grad.sum().backward()


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 12), st.booleans())
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int, channels_last: bool) -> None:
    """A region depends neither on the others nor on their order; a map shifted with its boxes is the same."""
    torch.manual_seed(seed)
    features, rois = torch.randn(2, channels, 24, 40), random_rois(k, 2, 16, 16)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    order = torch.randperm(k)
    pooled = roi_pool(features, rois, 3)
    assert torch.equal(roi_pool(features, rois[order], 3), pooled[order])
    assert torch.equal(torch.cat([roi_pool(features, roi[None], 3) for roi in rois]), pooled)
    inside = rois.clamp(min=0)
    moved = torch.nn.functional.pad(features, (8, 0, 4, 0))
    assert torch.equal(roi_pool(moved[:, :, 4:, 8:], inside, 3), roi_pool(features, inside, 3))
    shift = torch.tensor([0.0, 8, 4, 8, 4])
    assert torch.equal(roi_pool(moved, inside + shift, 3), roi_pool(features, inside, 3))


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 3))
def test_one_bin_is_the_maximum_of_its_pixels(seed: int, channels: int, bins: int) -> None:
    torch.manual_seed(seed)
    features = torch.randn(1, channels, 10, 11)
    x1, y1 = torch.randint(0, 6, (2,)).tolist()
    x2, y2 = x1 + int(torch.randint(0, 5, ())), y1 + int(torch.randint(0, 4, ()))
    pooled = roi_pool(features, torch.tensor([[0.0, x1, y1, x2, y2]]), bins)
    assert torch.equal(pooled.amax((2, 3))[0], features[0, :, y1 : y2 + 1, x1 : x2 + 1].amax((1, 2)))


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -1e30, 3e38])
def test_values_without_meaning(device: torch.device, value: float) -> None:
    """Neither crash nor endless loop; other regions do not notice."""
    features = torch.randn(1, 20, 12, 15, device=device, requires_grad=True)
    good = [0.0, 1.0, 2.0, 9.0, 8.0]
    rows = [good] + [[*good[:i], value, *good[i + 1 :]] for i in range(1, 5)] + [[0.0] + [value] * 4]
    rows += [[0.0, -abs(value), -abs(value), abs(value), abs(value)]]
    rois = torch.tensor(rows, device=device)
    pooled = roi_pool(features, rois, 4)
    assert torch.equal(pooled[:1], roi_pool(features, rois[:1], 4))
    assert pooled.isfinite().all()
    if value != value:
        assert torch.equal(pooled[5], roi_pool(features, torch.zeros(1, 5, device=device), 4)[0])  # NaN counts as 0
    else:
        assert (pooled[5] == 0).all()  # far away
        assert torch.equal(pooled[6].amax((1, 2)), features[0].amax((1, 2)).detach())  # the whole map and beyond
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert grad.isfinite().all()


def test_nan_and_infinity_in_the_map(device: torch.device) -> None:
    """NaN is passed over; nothing but NaN or -inf gives the lowest finite value, and no gradient."""
    features = torch.zeros(1, 20, 2, 4, device=device)
    features[..., 0, :] = torch.tensor([NAN, INF, -INF, 1.0])
    features[..., 1, :] = torch.tensor([2.0, 5.0, NAN, NAN])
    features.requires_grad_()
    boxes = torch.tensor([[0.0, x, 0.0, x, 1.0] for x in range(4)] + [[0.0, 0.0, 0.0, 0.0, 0.0]], device=device)
    pooled = roi_pool(features, boxes, 1)
    assert pooled[:, 7].flatten().tolist() == [2.0, INF, LOWEST, 1.0, LOWEST]
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert grad[0, 7].tolist() == [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]


def test_reversed_boxes_are_one_pixel(device: torch.device) -> None:
    features = torch.randn(1, 5, 12, 15, device=device)
    box = torch.tensor([[0.0, 9.0, 8.0, 2.0, 1.0]], device=device)
    assert torch.equal(roi_pool(features, box, 3), features[:, :, 8, 9, None, None].expand(1, 5, 3, 3))


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
                pooled = roi_pool(leaf, rois, 7)
                results.append((pooled.detach(), torch.autograd.grad(pooled, leaf, grad)[0]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_equal(result, results[0])


def test_layout_is_kept(device: torch.device) -> None:
    features = torch.randn(2, 24, 10, 12, device=device).to(memory_format=torch.channels_last).requires_grad_()
    pooled = roi_pool(features, random_rois(5, 2, 10, 12).to(device), 3)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert grad.is_contiguous(memory_format=torch.channels_last)
    window = torch.randn(2, 40, 30, 30, device=device)[:, 3:30, 5:-4, 2:20]
    rois = random_rois(5, 2, 10, 12).to(device)
    assert torch.equal(roi_pool(window, rois, 3), roi_pool(window.contiguous(), rois, 3))


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    features = torch.randn(3, 4, 10, 12, device=device)
    boxes = [random_rois(n, 1, 10, 12)[:, 1:].float().to(device) for n in (2, 0, 3)]
    rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i), device=device), b], 1) for i, b in enumerate(boxes)])
    expected = roi_pool(features, rois, (2, 3), 0.5)
    assert torch.equal(roi_pool(features, boxes, (2, 3), 0.5), expected)
    module = RoIPool((2, 3), spatial_scale=0.5)
    assert torch.equal(module(features, boxes), expected)
    assert repr(module) == "RoIPool(output_size=(2, 3), spatial_scale=0.5)"
    for dtype in (torch.float16, torch.bfloat16):
        low = roi_pool(features.to(dtype), rois, (2, 3), 0.5)
        assert (
            torch.equal(low, roi_pool(features.to(dtype).float(), rois, (2, 3), 0.5).to(dtype)) and low.dtype == dtype
        )
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert torch.equal(roi_pool(features.to(dtype), rois.double(), (2, 3), 0.5), low)


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
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    arguments = {"input": torch.ones(1, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2}
    with pytest.raises(RuntimeError, match=f"^roi_pool: {message}"):
        roi_pool(**{**arguments, **change})


@pytest.mark.parametrize("change", [change for change, _ in BAD[:4]] + [change for change, _ in BAD[7:]])
def test_traced_programs_say_the_same(change: dict[str, object]) -> None:
    arguments = {"input": torch.ones(1, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2, **change}
    with pytest.raises(RuntimeError) as eager:
        roi_pool(**arguments)
    with pytest.raises(RuntimeError) as traced:
        roi_pool(**{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()})
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
    pooled = roi_pool(features, rois, 2)
    assert (pooled[1:-1] == 0).all() and (pooled[[0, -1]] == 1).all()
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    expected = torch.zeros_like(grad)
    expected[:, :, 0, 0] = expected[:, :, 0, 1] = expected[:, :, 1, 0] = expected[:, :, 1, 1] = 1  # 3 x 3 pixels
    assert torch.equal(grad, expected)
    assert (roi_pool(features[:0], rois, 2) == 0).all()


def test_too_much_for_a_gpu(gpu: torch.device) -> None:
    """A pixel's number has 32 bits."""
    maps, rois = torch.zeros(1, 0, 1, 1, device=gpu).expand(1, 0, 2**20, 2**13), torch.zeros(1, 5, device=gpu)
    grad = torch.zeros(1, 0, 1, 1, device=gpu)
    with pytest.raises(
        RuntimeError, match=r"^roi_pool_backward: expected input of less than 2\^32 pixels, got 1048576 x"
    ):
        torch.ops.detops.roi_pool_backward(grad, maps, rois, 1.0, 1, 1)


def test_many_regions(device: torch.device) -> None:
    """More than are listed at a time, and channels in several rounds; each shares pixels with others."""
    features, rois = torch.randint(-9, 9, (2, 24, 20, 23)).double(), random_rois(300, 2, 20, 23)
    size, expected = (1, 70), torch.zeros_like(features)
    grad = torch.randint(-4, 5, (300, 24, *size)).double()
    for some, grad_of_some in zip(rois.split(50), grad.split(50), strict=True):
        leaf = features.clone().requires_grad_()
        expected += torch.autograd.grad(roi_pool(leaf, some, size), leaf, grad_of_some)[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = features.to(device, memory_format=layout).requires_grad_()
        pooled = roi_pool(leaf, rois.to(device), size)
        (actual,) = torch.autograd.grad(pooled, leaf, grad.to(device, memory_format=layout))
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: too large to emulate")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_detector_s_size_on_a_gpu(dtype: torch.dtype) -> None:
    """As on the CPU, and the same bits each time."""
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.randn(2, 512, 50, 76).to(dtype=dtype, memory_format=layout)
        rois = random_rois(1000, 2, 50, 76).float() * torch.tensor([1.0, 4, 4, 4, 4])
        leaf = features.clone().requires_grad_()
        expected = roi_pool(leaf, rois, 7, 0.25)
        grad = torch.randn_like(expected)
        (expected_grad,) = torch.autograd.grad(expected, leaf, grad)
        results = []
        for _ in range(3):
            leaf = features.cuda().requires_grad_()
            actual = roi_pool(leaf, rois.cuda(), 7, 0.25)
            results.append((actual.detach(), torch.autograd.grad(actual, leaf, grad.cuda())[0]))
        assert_equal(results[1:], [results[0]] * 2)
        scale = expected_grad.abs().max().item()
        rtol = 8 * torch.finfo(dtype).eps
        assert torch.equal(results[0][0].cpu(), expected.detach())
        torch.testing.assert_close(results[0][1].cpu(), expected_grad, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("index", [-1.0, 2.0, NAN, INF, -INF, 1e30])
def test_image_index_out_of_range(index: float) -> None:
    features, rois = torch.ones(2, 3, 4, 4), torch.tensor([[1.0, 0, 0, 2, 2], [index, 0, 0, 2, 2]])
    with pytest.raises(RuntimeError, match=r"^roi_pool: expected rois\[:, 0\] from 0 to 1, got .* in row 1"):
        roi_pool(features, rois, 2)
    with pytest.raises(RuntimeError, match=r"^roi_pool_backward: expected rois\[:, 0\] from 0 to 1, got"):
        torch.ops.detops.roi_pool_backward(torch.ones(2, 3, 2, 2), features, rois, 1.0, 2, 2)


def test_number_of_regions_known_only_at_run_time() -> None:
    def program(features: Tensor, rois: Tensor, scores: Tensor) -> Tensor:
        return roi_pool(features, rois[scores > 0.5], 2).square()

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
    pooled = roi_pool(features, torch.tensor([[0.0, 900.0, 900.0, 1000.0, 1000.0]]), 2)
    assert (pooled[0, 2048] == 1).all() and (pooled[0, :2048] == 0).all()
    del features
    rois = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]]).expand(21_500, 5)
    pooled = roi_pool(torch.ones(1, 2049, 2, 2, dtype=torch.bfloat16), rois, 7)
    assert pooled.numel() > 2**31 and (pooled[-1] == 1).all()
