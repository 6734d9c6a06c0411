import math

import pytest
import regions
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import aligned_means, random_rois, small_input

from detops.ops import RoIAlign, roi_align

FIXED = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 17, 12, 5), (2, 40, 6, 33)])
@pytest.mark.parametrize("ratio", [-1, 1, 2, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_matches_the_paper(device: torch.device, shape: tuple[int, int, int, int], ratio: int, aligned: bool) -> None:
    features, rois = small_input(*shape), random_rois(6, shape[0], *shape[2:])
    size = (3, 2) if ratio != 2 else (5, 7)
    expected = aligned_means(features[:, :3], rois, size, 0.5, ratio, aligned)
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
    regions.check_one_by_one(lambda rois: roi_align(features, rois, 3, 1.0, 2), rois)
    inside = rois.clamp(min=0)
    moved = torch.nn.functional.pad(features, (8, 0, 4, 0))[:, :, 4:, 8:]
    assert torch.equal(roi_align(moved, inside, 3, 1.0, 2), roi_align(features, inside, 3, 1.0, 2))


@FIXED
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 16, 33]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_gradient_is_the_transpose(seed: int, channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    features, rois = torch.randn(2, channels, 13, 19).to(dtype).requires_grad_(), random_rois(7, 2, 13, 19).float()
    regions.check_transpose(lambda features: roi_align(features, rois, (2, 5), 1.0, 0), features)


@pytest.mark.parametrize("value", regions.MEANINGLESS)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_values_without_meaning(device: torch.device, value: float, ratio: int, aligned: bool) -> None:
    """Such samples lie outside, and count as zero."""
    features = torch.randn(1, 20, 12, 15, device=device, requires_grad=True)
    pooled, _ = regions.check_meaningless(lambda *of: roi_align(*of, 4, 1.0, ratio, aligned), value, features)
    assert (pooled[-2] == 0).all()
    if not math.isfinite(value):
        assert (pooled[-1] == 0).all()


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
    features[:, :, 5, 5] = math.nan
    pooled = roi_align(features, boxes, 7, 1.0, 2)
    assert pooled[0].isnan().any() and not pooled[0].isnan().all()
    assert torch.equal(pooled[1], clean[1])


@pytest.mark.parametrize("shape", [(1, 64, 50, 60), (3, 5, 40, 70), (1, 2, 200, 300), (2, 20, 9, 9)])
@pytest.mark.threads
def test_threads(shape: tuple[int, int, int, int]) -> None:
    rois = random_rois(2000, shape[0], *shape[2:]).float()
    regions.check_threads(lambda features: roi_align(features, rois, 7, 1.0, 2), torch.randn(shape).requires_grad_())


def test_layout_is_kept(device: torch.device) -> None:
    regions.check_layout_is_kept(lambda *of: roi_align(*of, 3), device, random_rois(5, 2, 10, 12))


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    features, (boxes, rois) = torch.randn(3, 4, 10, 12, device=device), regions.boxes_by_image(device)
    expected = roi_align(features, rois, (2, 3), 0.5, 2, True)
    assert torch.equal(roi_align(features, boxes, (2, 3), 0.5, 2, True), expected)
    module = RoIAlign((2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)
    assert torch.equal(module(features, boxes), expected)
    assert repr(module) == "RoIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    regions.check_mixed_dtypes(module, features, rois)


@pytest.mark.parametrize(("arguments", "message"), regions.mistakes() + regions.MISTAKEN_LISTS)
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(roi_align, arguments, message, device)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, layout: torch.memory_format) -> None:
    features = torch.ones(2, 4, 4, 4, device=gpu).to(memory_format=layout).requires_grad_()
    assert (regions.check_images_are_zero(lambda *of: roi_align(*of, 2), [0, 0, 2, 2], features) == 1).all()


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
    features, rois = small_input(2, 9, 20, 23).requires_grad_(), random_rois(300, 2, 20, 23)
    rois[::7] = rois[::7, [0, 3, 4, 1, 2]]
    grad = torch.randint(-4, 5, (300, 9, 2, 70)).double()
    regions.check_many(lambda *of: roi_align(*of, (2, 70), 1.0, 2, True), features, rois, grad, device, 1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: too large to emulate")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_detector_s_size_on_a_gpu(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """As on the CPU, and the same bits each time."""
    features = torch.randn(2, 256, 200, 304).to(dtype=dtype, memory_format=layout).requires_grad_()
    rois = random_rois(1000, 2, 200, 304).float() * torch.tensor([1.0, 4, 4, 4, 4])
    output, gradient = regions.check_on_a_gpu(lambda *of: roi_align(*of, 7, 0.25, 2), features, rois)
    rtol = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*output, rtol=rtol, atol=rtol)
    torch.testing.assert_close(*gradient, rtol=rtol, atol=rtol * gradient[1].abs().max().item())


@pytest.mark.parametrize("index", regions.NO_IMAGE)
def test_image_index_out_of_range(index: float) -> None:
    features, grad, backward = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 2, 2), torch.ops.detops.roi_align_backward
    regions.check_image_is_refused("roi_align", lambda rois: roi_align(features, rois, 2), index)
    regions.check_image_is_refused(
        "roi_align_backward", lambda rois: backward(grad, rois, 1.0, 2, 2, 2, 3, 4, 4, 0, False, False), index
    )


def test_a_fraction_of_an_image_index_is_cut_off() -> None:
    features, rois = torch.randn(2, 3, 4, 4), torch.tensor([[1.9, 0, 0, 2, 2], [-0.9, 0, 0, 2, 2]])
    assert torch.equal(roi_align(features, rois, 2), roi_align(features, rois.trunc(), 2))


def test_number_of_regions_known_only_at_run_time() -> None:
    features, rois = torch.randn(2, 3, 8, 8, requires_grad=True), random_rois(6, 2, 8, 8)
    regions.check_regions_chosen_at_run_time(lambda *of: roi_align(*of, 2, 1.0, 2), features, rois)


@pytest.mark.large
def test_more_than_two_billion_elements() -> None:
    """In the input and in the output; needs 9 GB."""
    box = torch.tensor([[0.0, 900.0, 900.0, 1000.0, 1000.0]])
    regions.check_more_than_two_billion_inputs(lambda *of: roi_align(*of, 2), box)
    regions.check_more_than_two_billion_outputs(lambda *of: roi_align(*of, 7), side=2.0)


def test_one_plane_too_wide_for_a_slab(device: torch.device) -> None:
    """Many channels of a map so wide that interleaving a region's rows would take gigabytes."""
    features = torch.zeros(1, 3, 64, 150_000, device=device)
    features[0, 1] = torch.linspace(0, 1, 150_000, device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 150_000.0, 63.0]], device=device)
    torch.testing.assert_close(
        roi_align(features, rois, 1)[0].flatten().cpu(), torch.tensor([0.0, 0.5, 0.0]), atol=1e-3, rtol=0
    )


def test_instruction_sets_agree() -> None:
    features, rois = torch.randn(1, 20, 16, 16), random_rois(50, 1, 16, 16).float()
    regions.check_instruction_sets_agree(lambda *of: roi_align(*of, 7), features, rois, atol=1e-6)
