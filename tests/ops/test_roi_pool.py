import math

import pytest
import regions
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import INF, NAN, random_rois
from torch import Tensor

from detops.ops import RoIPool, roi_pool

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
    regions.check_one_by_one(lambda rois: roi_pool(features, rois, 3), rois)
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


@pytest.mark.parametrize("value", regions.MEANINGLESS)
def test_values_without_meaning(device: torch.device, value: float) -> None:
    features = torch.randn(1, 20, 12, 15, device=device, requires_grad=True)
    pooled, _ = regions.check_meaningless(lambda *of: roi_pool(*of, 4), value, features)
    if value != value:
        assert torch.equal(pooled[5], roi_pool(features, torch.zeros(1, 5, device=device), 4)[0])  # NaN counts as 0
    else:
        assert (pooled[5] == 0).all()  # far away
        assert torch.equal(pooled[6].amax((1, 2)), features[0].amax((1, 2)).detach())  # the whole map and beyond


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
    rois = random_rois(2000, shape[0], *shape[2:]).float()
    regions.check_threads(lambda features: roi_pool(features, rois, 7), torch.randn(shape).requires_grad_())


def test_layout_is_kept(device: torch.device) -> None:
    regions.check_layout_is_kept(lambda *of: roi_pool(*of, 3), device, random_rois(5, 2, 10, 12))


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    features, (boxes, rois) = torch.randn(3, 4, 10, 12, device=device), regions.boxes_by_image(device)
    expected = roi_pool(features, rois, (2, 3), 0.5)
    assert torch.equal(roi_pool(features, boxes, (2, 3), 0.5), expected)
    module = RoIPool((2, 3), spatial_scale=0.5)
    assert torch.equal(module(features, boxes), expected)
    assert repr(module) == "RoIPool(output_size=(2, 3), spatial_scale=0.5)"
    regions.check_mixed_dtypes(module, features, rois)
    with torch.autocast(device.type, dtype=torch.bfloat16):  # nothing is rounded
        assert torch.equal(roi_pool(features.half(), rois.double(), (2, 3), 0.5), expected.half())


@pytest.mark.parametrize(("arguments", "message"), regions.mistakes() + regions.MISTAKEN_LISTS)
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(roi_pool, arguments, message, device)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, layout: torch.memory_format) -> None:
    features = torch.ones(2, 4, 4, 4, device=gpu).to(memory_format=layout).requires_grad_()
    assert (regions.check_images_are_zero(lambda *of: roi_pool(*of, 2), [0, 0, 2, 2], features) == 1).all()


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
    features, rois = torch.randint(-9, 9, (2, 24, 20, 23)).double().requires_grad_(), random_rois(300, 2, 20, 23)
    grad = torch.randint(-4, 5, (300, 24, 1, 70)).double()
    regions.check_many(lambda *of: roi_pool(*of, (1, 70)), features, rois, grad, device, 0)  # whole numbers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: too large to emulate")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_detector_s_size_on_a_gpu(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """As on the CPU, and the same bits each time."""
    features = torch.randn(2, 512, 50, 76).to(dtype=dtype, memory_format=layout).requires_grad_()
    rois = random_rois(1000, 2, 50, 76).float() * torch.tensor([1.0, 4, 4, 4, 4])
    output, gradient = regions.check_on_a_gpu(lambda *of: roi_pool(*of, 7, 0.25), features, rois)
    assert torch.equal(*output)
    rtol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*gradient, rtol=rtol, atol=rtol * gradient[1].abs().max().item())


@pytest.mark.parametrize("index", regions.NO_IMAGE)
def test_image_index_out_of_range(index: float) -> None:
    features, grad, backward = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 2, 2), torch.ops.detops.roi_pool_backward
    regions.check_image_is_refused("roi_pool", lambda rois: roi_pool(features, rois, 2), index)
    regions.check_image_is_refused("roi_pool_backward", lambda rois: backward(grad, features, rois, 1.0, 2, 2), index)


def test_number_of_regions_known_only_at_run_time() -> None:
    features, rois = torch.randn(2, 3, 8, 8, requires_grad=True), random_rois(6, 2, 8, 8)
    regions.check_regions_chosen_at_run_time(lambda *of: roi_pool(*of, 2), features, rois)


@pytest.mark.large
def test_more_than_two_billion_elements() -> None:
    """In the input and in the output; needs 9 GB."""
    box = torch.tensor([[0.0, 900.0, 900.0, 1000.0, 1000.0]])
    regions.check_more_than_two_billion_inputs(lambda *of: roi_pool(*of, 2), box)
    regions.check_more_than_two_billion_outputs(lambda *of: roi_pool(*of, 7), side=1.0, differentiable=False)
