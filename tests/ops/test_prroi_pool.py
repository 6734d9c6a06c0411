import math
from itertools import pairwise

import pytest
import regions
import torch
from checks import Sample, assert_equal, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import random_rois, small_input
from torch import Tensor
from torch.nn import functional

from detops.ops import PrRoIPool, prroi_pool, roi_align

FIXED = settings(max_examples=20, deadline=None, derandomize=True)


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Value of a map at a point, zero outside."""
    total = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < len(plane) and 0 <= j < len(plane[0]):
                total += plane[i][j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def quadrature(low: float, high: float) -> list[tuple[float, float]]:
    """Points and weights of a mean that is exact where it is linear between integers: Gauss' two, piece by piece."""
    inner = [float(i) for i in range(math.floor(low) + 1, math.ceil(high))]
    edges = [low, *inner, high]
    result = []
    for a, b in pairwise(edges):
        middle, half = (a + b) / 2, (b - a) / 2
        result += [(middle + sign * half / math.sqrt(3), half / (high - low)) for sign in (-1, 1)]
    return result


def reference(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float = 1.0) -> Tensor:
    """The integral of the paper, eq. 6, cell by cell in plain Python."""
    maps, (rows, columns) = features.double().tolist(), size
    output = torch.zeros(len(rois), features.shape[1], rows, columns, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        if x2 <= x1 or y2 <= y1:
            continue
        h, w = (y2 - y1) * scale / rows, (x2 - x1) * scale / columns
        for p in range(rows):
            down = quadrature(y1 * scale + p * h, y1 * scale + (p + 1) * h)
            for q in range(columns):
                across = quadrature(x1 * scale + q * w, x1 * scale + (q + 1) * w)
                for c, plane in enumerate(maps[int(image)]):
                    output[k, c, p, q] = sum(u * v * bilinear(plane, y, x) for y, u in down for x, v in across)
    return output


def smooth_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """The same where the result has a derivative: no edge of 2 or 3 bins on a pixel, no image about to change."""
    rois = random_rois(k, images, height, width)
    low = rois[:, 1:3].floor()
    rois[:, 3:] = low + (rois[:, 3:] - low).round().clamp(min=1) + 0.25
    rois[:, 1:3] = low + 0.25
    rois[:, 0] += 0.5
    return rois


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 17, 12, 5), (2, 40, 6, 33)])
@pytest.mark.parametrize(("size", "scale"), [((3, 2), 1.0), ((1, 1), 0.5), ((5, 7), 0.25)])
def test_matches_the_paper(
    device: torch.device, shape: tuple[int, int, int, int], size: tuple[int, int], scale: float
) -> None:
    features, rois = small_input(*shape), random_rois(6, shape[0], *shape[2:])
    expected = reference(features[:, :3], rois, size, scale)
    for layout in (torch.contiguous_format, torch.channels_last):
        actual = prroi_pool(features.to(device, memory_format=layout), rois.to(device), size, scale).cpu()
        assert actual.shape == (6, shape[1], *size) and actual.dtype == torch.float64
        torch.testing.assert_close(actual[:, :3], expected, rtol=1e-9, atol=1e-12)
        single = prroi_pool(features.float().to(device), rois.float().to(device), size, scale).cpu()
        torch.testing.assert_close(single, actual.float(), rtol=1e-5, atol=1e-6)


def test_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).to(device)  # value 4 y + x
    one = torch.zeros(1, 1, 5, 5, device=device)
    one[..., 2, 2] = 1

    def pooled(features: Tensor, box: list[float], size: int | tuple[int, int] = 1, scale: float = 1.0) -> list[float]:
        return prroi_pool(features, torch.tensor([[0.0, *box]], device=device), size, scale).flatten().tolist()

    assert pooled(ramp, [0, 0, 2, 2]) == [5.0]  # as at its centre, (1, 1)
    assert pooled(ramp, [0, 0, 2, 2], 2) == [2.5, 3.5, 6.5, 7.5]
    assert pooled(ramp, [0, 0, 8, 8], 2, 0.25) == [2.5, 3.5, 6.5, 7.5]
    assert pooled(one, [1, 1, 3, 3]) == [0.25]  # a whole hat, of volume 1, over an area of 4
    assert pooled(one, [2, 1, 3, 3]) == [0.25]  # half of it over half the area
    assert pooled(one, [1.5, 1, 2.5, 3]) == [0.375]  # 0.75 of it over 2
    assert pooled(one, [-7, -7, 13, 13]) == pytest.approx([1 / 400])
    assert pooled(one, [1, 1, 3, 3], (1, 2)) == [0.25, 0.25]
    assert pooled(torch.ones_like(one), [-1, 1, 0, 2]) == [0.5]  # down to zero a pixel outside
    assert pooled(torch.ones_like(one), [-3, 1, -1, 2]) == [0.0]
    assert pooled(torch.ones_like(one), [4, 1, 6, 2]) == [0.25]


def test_gradient_of_regions_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).to(device)
    rois = torch.tensor([[0, 0.5, 0.5, 2.5, 2.25]], device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(prroi_pool(ramp, rois, 1).sum(), rois)
    assert grad[0].tolist() == pytest.approx([0, 0.5, 2, 0.5, 2])  # the centre moves by half of what an edge does
    (grad,) = torch.autograd.grad(prroi_pool(ramp, rois, (1, 2)).sum(), rois)
    assert grad[0].tolist() == pytest.approx([0, 1, 4, 1, 4])
    (grad,) = torch.autograd.grad(prroi_pool(ramp, rois, 1, 0.5).sum(), rois)
    assert grad[0].tolist() == pytest.approx([0, 0.25, 1, 0.25, 1])


def test_operator(device: torch.device) -> None:
    none = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((small_input(2, 3, 6, 5), smooth_rois(4, 2, 6, 5), 2), differentiable=(0, 1)),
        Sample((small_input(2, 18, 4, 5), smooth_rois(3, 2, 4, 5), (1, 3), 1.0), differentiable=(0, 1)),
        Sample((small_input(2, 3, 6, 5), none, 2), differentiable=(0, 1)),
        Sample((small_input(1, 0, 6, 5), smooth_rois(4, 1, 6, 5), 2), differentiable=(0, 1)),
        Sample((small_input(1, 3, 0, 5), smooth_rois(4, 1, 6, 5), 2), differentiable=(0, 1)),
        Sample((torch.zeros(0, 3, 4, 4, dtype=torch.float64), none, 2), differentiable=(0, 1)),
    ]
    check_operator(prroi_pool, samples, device)


@pytest.mark.parametrize("channels", [1, 2, 21])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(device: torch.device, channels: int, layout: torch.memory_format) -> None:
    """Of regions inside, over the border, around the map, off it, and smaller than a pixel."""
    features = small_input(2, channels, 6, 7).to(device, memory_format=layout).requires_grad_()
    rois = torch.cat([smooth_rois(4, 2, 6, 7), torch.tensor([[0.5, -5.3, -40.7, 90.4, 30.2]]).double()])
    rois = torch.cat([rois, torch.tensor([[1.5, 2.31, 3.21, 2.33, 3.97], [0.5, 20.3, 1.2, 30.4, 2.6]]).double()])
    rois = rois.to(device).requires_grad_()
    fast = device.type == "cuda" or channels > 2
    for size, scale in (((2, 3), 1.0), ((7, 1), 0.83)):
        assert torch.autograd.gradcheck(
            lambda f, r, size=size, scale=scale: prroi_pool(f, r, size, scale),
            (features, rois),
            fast_mode=fast,
            check_batched_grad=False,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rois_dtype", [torch.float32, torch.bfloat16])
def test_gradients_in_lower_precision(device: torch.device, dtype: torch.dtype, rois_dtype: torch.dtype) -> None:
    features, rois = torch.randn(2, 21, 9, 11).to(device, dtype), random_rois(7, 2, 9, 11).to(device, rois_dtype)
    rois[0, 3:] = rois[0, 1:3] + 0.125  # bins far smaller than a pixel
    grad = torch.randn(7, 21, 3, 2).to(device, dtype)
    leaves = (features.requires_grad_(), rois.requires_grad_())
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    actual = torch.autograd.grad(prroi_pool(*leaves, (3, 2), 0.5), leaves, grad)
    expected = torch.autograd.grad(prroi_pool(*wide, (3, 2), 0.5), wide, grad.double())
    for got, exact, leaf in zip(actual, expected, leaves, strict=True):
        assert got.dtype == leaf.dtype
        scale = exact.abs().max().item()
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=4 * torch.finfo(leaf.dtype).eps * scale)
    assert (actual[1][:, 0] == 0).all()


def test_only_what_is_asked_for(device: torch.device) -> None:
    features, rois = torch.randn(1, 4, 8, 8, device=device), random_rois(3, 1, 8, 8).float().to(device)
    leaf = features.clone().requires_grad_()
    pooled = prroi_pool(leaf, rois, 2)
    assert [t is None for t in pooled.grad_fn.saved_tensors] == [False, True]  # nor is the map kept
    (of_maps,) = torch.autograd.grad(pooled.sum(), leaf)
    regions = rois.clone().requires_grad_()
    (of_rois,) = torch.autograd.grad(prroi_pool(features, regions, 2).sum(), regions)
    both = torch.autograd.grad(prroi_pool(leaf, regions, 2).sum(), (leaf, regions))
    assert_equal((of_maps, of_rois), both)


def test_second_derivative(device: torch.device) -> None:
    features = torch.randn(1, 2, 5, 5, device=device, requires_grad=True)
    rois = torch.tensor([[0.0, 1, 1, 3, 3]], device=device, requires_grad=True)
    for leaf in (features, rois):
        (grad,) = torch.autograd.grad(prroi_pool(features, rois, 2).square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"^prroi_pool: expected to be differentiated once, got a second deriv"):
            grad.sum().backward()


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(2, 20), st.integers(2, 40))
def test_a_linear_map_pools_to_the_centres(seed: int, channels: int, height: int, width: int) -> None:
    """As does a constant one; and so it does for regions as small as may be."""
    torch.manual_seed(seed)
    room = torch.tensor([width - 1, height - 1])
    low = torch.rand(5, 2).double() * room
    part = torch.tensor([1, 1e-1, 1e-3, 1e-6, 1e-9], dtype=torch.float64)[:, None]
    rois = torch.cat([torch.zeros(5, 1), low, low + (0.1 + 0.9 * torch.rand(5, 2)) * (room - low) * part], dim=1)
    y, x = torch.arange(height).double()[:, None], torch.arange(width).double()
    slopes = torch.randn(channels, 3, 1, 1).double()
    features = (slopes[:, 0] + slopes[:, 1] * y + slopes[:, 2] * x)[None]
    steps = [(torch.arange(n).double() + 0.5) / n for n in (3, 4)]
    centre_y = rois[:, 2, None] + (rois[:, 4] - rois[:, 2])[:, None] * steps[0]
    centre_x = rois[:, 1, None] + (rois[:, 3] - rois[:, 1])[:, None] * steps[1]
    expected = slopes[:, 0] + slopes[:, 1] * centre_y[:, None, :, None] + slopes[:, 2] * centre_x[:, None, None, :]
    torch.testing.assert_close(prroi_pool(features, rois, (3, 4)), expected, rtol=1e-9, atol=1e-9)
    leaf = rois.clone().requires_grad_()
    (grad,) = torch.autograd.grad(prroi_pool(features, leaf, (3, 4)).sum(), leaf)
    by_x, by_y = 6 * slopes[:, 2].sum().item(), 6 * slopes[:, 1].sum().item()  # 12 bins, half to each edge
    expected_grad = torch.tensor([0, by_x, by_y, by_x, by_y]).double().expand(5, 5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-4)  # bins' edges are rounded


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 12), st.booleans())
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int, channels_last: bool) -> None:
    """A region depends neither on the others nor on their order; a map shifted with its boxes is the same."""
    torch.manual_seed(seed)
    features, rois = torch.randn(2, channels, 24, 40), random_rois(k, 2, 16, 16)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    pooled = regions.check_one_by_one(lambda rois: prroi_pool(features, rois, 3), rois)
    moved = functional.pad(features, (8, 0, 4, 0))
    torch.testing.assert_close(prroi_pool(moved, rois + torch.tensor([0, 8, 4, 8, 4]), 3), pooled)
    quarters = functional.avg_pool2d(prroi_pool(features, rois, 6), 2)  # a mean is that of its parts' means
    torch.testing.assert_close(quarters, pooled)


@FIXED
@given(st.integers(0, 2**32))
def test_many_samples_of_roi_align_come_close(seed: int) -> None:
    torch.manual_seed(seed)
    features, rois = torch.randn(2, 5, 12, 15).double(), random_rois(6, 2, 8, 8)
    padded = functional.pad(features, (24,) * 4)  # its border rule is another
    shifted = rois + torch.tensor([0, 24.5, 24.5, 24.5, 24.5])
    close = roi_align(padded, shifted, (3, 2), 1.0, 200, aligned=True)
    torch.testing.assert_close(prroi_pool(features, rois, (3, 2)), close, rtol=1e-3, atol=1e-3)


@FIXED
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 16, 33]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gradient_is_the_transpose(seed: int, channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    features, rois = torch.randn(2, channels, 13, 19).to(dtype).requires_grad_(), random_rois(7, 2, 13, 19).float()
    regions.check_transpose(lambda features: prroi_pool(features, rois, (2, 5)), features)


def test_bins_too_short_to_have_edges(device: torch.device) -> None:
    """Rounded to a point, a bin has the map's value there; bins that share pixels stay in order."""
    features = torch.randn(1, 5, 6, 7, dtype=torch.float64, device=device, requires_grad=True)
    x = 3.25
    rois = torch.tensor([[0, x, 2.5, x + 2e-15, 3.5]], dtype=torch.float64, device=device)
    pooled = prroi_pool(features, rois, (1, 9))
    wide = prroi_pool(features, torch.tensor([[0, x - 1e-3, 2.5, x + 1e-3, 3.5]], device=device).double(), 1)
    torch.testing.assert_close(pooled, wide.expand_as(pooled), rtol=1e-9, atol=1e-9)
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    (expected,) = torch.autograd.grad(9 * wide.sum(), features)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", regions.MEANINGLESS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_without_meaning(device: torch.device, value: float, dtype: torch.dtype) -> None:
    """Zero if an edge is no number."""
    features = torch.randn(1, 20, 12, 15, device=device, dtype=dtype, requires_grad=True)
    pooled, _, of_rois = regions.check_meaningless(
        lambda *of: prroi_pool(*of, 4), value, features, dtype=dtype, requires_grad=True
    )
    assert (pooled[-2] == 0).all() and (of_rois[-2] == 0).all()
    if not math.isfinite(value):
        assert (pooled[1:] == 0).all() and (of_rois[1:] == 0).all()


def test_sizes_beyond_float64(device: torch.device) -> None:
    features = torch.randn(1, 3, 6, 7, device=device, requires_grad=True)
    rows = [[0, -1e308, 0, 1e308, 4], [0, 0, -1.5e308, 5, 1.5e308], [0, 1, 0, 1.7e308, 4]]
    rois = torch.tensor(rows, device=device, dtype=torch.float64, requires_grad=True)
    pooled = prroi_pool(features, rois, (3, 3))
    assert (pooled == 0).all()
    for grad in torch.autograd.grad(pooled.sum(), (features, rois)):
        assert (grad == 0).all()


def test_a_region_around_the_map_has_its_mean(device: torch.device) -> None:
    features = torch.rand(1, 3, 10, 12, device=device, dtype=torch.float64)
    rois = torch.tensor([[0.0, -5000.0, -7000.0, 5000.0, 7000.0]], device=device)
    expected = features.sum(dim=(2, 3)) / 1e4 / 1.4e4
    torch.testing.assert_close(prroi_pool(features, rois, 1)[..., 0, 0], expected)


def test_reversed_and_empty_boxes(device: torch.device) -> None:
    """Zero, and no gradient."""
    features = torch.randn(1, 5, 12, 15, device=device, requires_grad=True)
    rows = [[0.0, 9, 1, 2, 8], [0, 2, 8, 9, 1], [0, 2, 1, 2, 8], [0, 2, 1, 9, 1], [0, 3, 3, 3, 3]]
    rois = torch.tensor(rows, device=device, requires_grad=True)
    pooled = prroi_pool(features, rois, 3)
    assert (pooled == 0).all()
    for grad in torch.autograd.grad(pooled.sum(), (features, rois)):
        assert (grad == 0).all()


def test_nan_in_the_map_stays_where_it_is(device: torch.device) -> None:
    features = torch.randn(1, 20, 30, 30, device=device)
    boxes = torch.tensor([[0.0, 2.0, 2.0, 9.0, 9.0], [0.0, 12.0, 12.0, 20.0, 20.0]], device=device, requires_grad=True)
    clean = prroi_pool(features, boxes, 7)
    (clean_grad,) = torch.autograd.grad(clean.sum(), boxes)
    features[:, :, 5, 5] = math.nan
    pooled = prroi_pool(features, boxes, 7)
    (grad,) = torch.autograd.grad(pooled.sum(), boxes)
    assert pooled[0].isnan().any() and not pooled[0].isnan().all() and grad[0, 1:].isnan().all()
    assert torch.equal(pooled[1], clean[1]) and torch.equal(grad[1], clean_grad[1])


@pytest.mark.parametrize("shape", [(1, 64, 50, 60), (3, 5, 40, 70), (1, 2, 200, 300), (2, 20, 9, 9)])
@pytest.mark.threads
def test_threads(shape: tuple[int, int, int, int]) -> None:
    features, rois = torch.randn(shape).requires_grad_(), random_rois(1000, shape[0], *shape[2:]).float()
    regions.check_threads(lambda *of: prroi_pool(*of, 7), features, rois.requires_grad_())


def test_layout_is_kept(device: torch.device) -> None:
    regions.check_layout_is_kept(lambda *of: prroi_pool(*of, 3), device, random_rois(5, 2, 10, 12))


def test_module_and_mixed_dtypes(device: torch.device) -> None:
    features, rois = torch.randn(3, 4, 10, 12, device=device), random_rois(6, 3, 10, 12).float().to(device)
    module = PrRoIPool((2, 3), spatial_scale=0.5)
    assert torch.equal(module(features, rois), prroi_pool(features, rois, (2, 3), 0.5))
    assert repr(module) == "PrRoIPool(output_size=(2, 3), spatial_scale=0.5)"
    regions.check_mixed_dtypes(module, features, rois)


@pytest.mark.parametrize(("arguments", "message"), regions.mistakes())
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(prroi_pool, arguments, message, device)


def test_private_operators_check_their_arguments() -> None:
    ops, maps, rois = torch.ops.detops, torch.ones(1, 3, 4, 4), torch.zeros(2, 5)
    for device in ("cpu", "meta"):
        maps, rois, grad = maps.to(device), rois.to(device), torch.ones(2, 3, 2, 2, device=device)
        with pytest.raises(RuntimeError, match=r"^prroi_pool_backward: expected grad of shape \(2, 4, 2, 2\), got"):
            ops.prroi_pool_backward(grad, rois, 1.0, 2, 2, 1, 4, 4, 4, False)
        with pytest.raises(RuntimeError, match=r"^prroi_pool_backward_rois: expected grad of shape \(2, 3, 3, 2\), "):
            ops.prroi_pool_backward_rois(grad, maps, rois, 1.0, 3, 2)
        with pytest.raises(RuntimeError, match=r"^prroi_pool_backward_rois: expected grad of the dtype of input, fl"):
            ops.prroi_pool_backward_rois(grad.double(), maps, rois, 1.0, 2, 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, layout: torch.memory_format) -> None:
    features = torch.randn(2, 4, 4, 4, device=gpu).to(memory_format=layout).requires_grad_()
    regions.check_images_are_zero(lambda *of: prroi_pool(*of, 2), [0.5, 0.5, 2.5, 2.5], features, requires_grad=True)


def test_too_much_for_a_gpu(gpu: torch.device) -> None:
    """Its tables count in 32 bits."""
    none, grad = torch.zeros(1, 0, 1, 1, device=gpu), torch.zeros(1, 0, 1, 1, device=gpu)
    many = torch.zeros(1, 5, device=gpu).expand(2**31, 5)
    with pytest.raises(RuntimeError, match=r"^prroi_pool: expected at most 2\^31 - 1 rois, got 2147483648"):
        prroi_pool(none, many, 1)
    wide = none.expand(1, 0, 2**31, 1)
    with pytest.raises(RuntimeError, match=r"^prroi_pool_backward_rois: expected at most 2\^31 - 1 rows and columns"):
        torch.ops.detops.prroi_pool_backward_rois(grad, wide, many[:1], 1.0, 1, 1)


@pytest.mark.parametrize("size", [(2, 70), (3, 2)])
def test_many_regions(device: torch.device, size: tuple[int, int]) -> None:
    """More than are listed at a time, most of them elsewhere; each shares pixels with others."""
    features, rois = small_input(2, 9, 20, 23).requires_grad_(), random_rois(300, 2, 20, 23).requires_grad_()
    grad = torch.randint(-4, 5, (300, 9, *size)).double()
    regions.check_many(lambda *of: prroi_pool(*of, size), features, rois, grad, device, 1e-9)


def test_few_regions_of_many_bins(device: torch.device) -> None:
    """A GPU divides each between several blocks."""
    features, rois = torch.randn(1, 60, 9, 8, dtype=torch.float64), random_rois(1, 1, 9, 8)
    grad = torch.randn(1, 60, 9, 8, dtype=torch.float64)
    expected = torch.zeros(1, 5, dtype=torch.float64)
    for c in range(60):
        leaf = rois.clone().requires_grad_()
        expected += torch.autograd.grad(prroi_pool(features[:, c, None], leaf, (9, 8)), leaf, grad[:, c, None])[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = rois.to(device).requires_grad_()
        pooled = prroi_pool(features.to(device, memory_format=layout), leaf, (9, 8))
        (actual,) = torch.autograd.grad(pooled, leaf, grad.to(device, memory_format=layout))
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: too large to emulate")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_detector_s_size_on_a_gpu(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """As on the CPU, and the same bits each time."""
    features = torch.randn(2, 256, 100, 152).to(dtype=dtype, memory_format=layout).requires_grad_()
    rois = random_rois(1000, 2, 100, 152).float() * torch.tensor([1.0, 8, 8, 8, 8])
    output, *gradients = regions.check_on_a_gpu(lambda *of: prroi_pool(*of, 7, 0.125), features, rois.requires_grad_())
    rtol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*output, rtol=rtol, atol=rtol)
    for actual, exact in gradients:
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=rtol * exact.abs().max().item())


@pytest.mark.parametrize("index", regions.NO_IMAGE)
def test_image_index_out_of_range(index: float) -> None:
    features, grad, ops = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 2, 2), torch.ops.detops
    for name, pool in {
        "prroi_pool": lambda rois: prroi_pool(features, rois, 2),
        "prroi_pool_backward": lambda rois: ops.prroi_pool_backward(grad, rois, 1.0, 2, 2, 2, 3, 4, 4, False),
        "prroi_pool_backward_rois": lambda rois: ops.prroi_pool_backward_rois(grad, features, rois, 1.0, 2, 2),
    }.items():
        regions.check_image_is_refused(name, pool, index)


def test_number_of_regions_known_only_at_run_time() -> None:
    features, rois = torch.randn(2, 3, 8, 8, requires_grad=True), random_rois(6, 2, 8, 8).requires_grad_()
    regions.check_regions_chosen_at_run_time(lambda *of: prroi_pool(*of, 2), features, rois)


@pytest.mark.large
def test_more_than_two_billion_elements() -> None:
    """In the input and in the output; needs 9 GB."""
    box = torch.tensor([[0.0, 900.0, 900.0, 1000.0, 1000.0]], requires_grad=True)
    (grad,) = regions.check_more_than_two_billion_inputs(lambda *of: prroi_pool(*of, 2), box)
    assert grad.abs().max() < 1e-3
    regions.check_more_than_two_billion_outputs(lambda *of: prroi_pool(*of, 7), side=1.0)


def test_one_plane_too_wide_for_a_slab(device: torch.device) -> None:
    """Many channels of a map so wide that interleaving a region's rows would take gigabytes."""
    features = torch.zeros(1, 3, 64, 150_000, device=device)
    features[0, 1] = torch.linspace(0, 1, 150_000, device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 149_999.0, 63.0]], device=device, requires_grad=True)
    pooled = prroi_pool(features, rois, 1)
    torch.testing.assert_close(pooled[0].flatten().cpu(), torch.tensor([0.0, 0.5, 0.0]), atol=1e-3, rtol=0)
    (grad,) = torch.autograd.grad(pooled.sum(), rois)
    expected = torch.tensor([[0, 0.5 / 149_999, 0, 0.5 / 149_999, 0]])
    torch.testing.assert_close(grad.cpu(), expected, rtol=1e-3, atol=1e-7)


def test_instruction_sets_agree() -> None:
    features, rois = torch.randn(1, 20, 16, 16), random_rois(50, 1, 16, 16).float().requires_grad_()
    regions.check_instruction_sets_agree(lambda *of: prroi_pool(*of, 7), features, rois, atol=1e-4)
