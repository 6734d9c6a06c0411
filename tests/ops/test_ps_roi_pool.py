import math

import position_sensitive as shared
import pytest
import regions
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import PSRoIPool, ps_roi_pool

FIXED = settings(max_examples=20, deadline=None, derandomize=True)


def pixels(low: float, high: float, bin: int, bins: int, size: int, scale: float = 1.0) -> dict[int, float]:
    """Weights of the pixels that a bin takes: alike, for all of them but a map's last."""

    def whole(x: float) -> int:
        return int(math.copysign(math.floor(abs(x) + 0.5), x))

    start = whole(low * scale)
    length = max(whole(high * scale) - start, 1)
    first = min(max(start + bin * length // bins, 0), size - 1)
    end = min(max(start - (-(bin + 1) * length // bins), 0), size - 1)
    return dict.fromkeys(range(first, end), 1 / max(end - first, 1))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (2, 2, 20, 40)])
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_matches_the_paper(
    device: torch.device, shape: tuple[int, int, int, int], size: tuple[int, int], scale: float
) -> None:
    images, channels, height, width = shape
    features = torch.randn(images, channels * size[0] * size[1], height, width, dtype=torch.float64)
    rois = shared.random_rois(8, images, height, width)
    expected = shared.reference(features, rois, size, lambda *along: pixels(*along, scale))
    actual = ps_roi_pool(features.to(device), rois.to(device), size, scale)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_by_hand(device: torch.device) -> None:
    """Two channels for a row of two bins: the left one reads the first, the right one the second."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    features = torch.cat([ramp, 10 * ramp], dim=1).to(device)
    box = torch.tensor([[0.0, 1, 1, 5, 3]], device=device)  # columns 1 and 2, then 3 and 4
    assert ps_roi_pool(features, box, (1, 2)).flatten().tolist() == [1.5, 35.0]
    edge = torch.tensor([[0.0, 6, 6, 9, 9]], device=device)  # of the last two rows and columns, the first alone
    assert ps_roi_pool(features[:, :1], edge, 1).flatten().tolist() == [6.0]


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    def features(*shape: int) -> Tensor:
        return torch.randint(-16, 16, shape).double() / 4

    nothing = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((features(2, 8, 6, 5), shared.random_rois(4, 2, 6, 5), 2, 1.0), differentiable=(0,)),
        Sample((features(2, 12, 4, 5), shared.random_rois(3, 2, 4, 5), (3, 2), 0.5), differentiable=(0,)),
        Sample((features(2, 4, 6, 5), nothing, 2), differentiable=(0,)),
        Sample((features(1, 0, 6, 5), shared.random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((features(1, 4, 0, 5), shared.random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((features(0, 4, 4, 4), nothing, 2), differentiable=(0,)),
    ]
    check_operator(ps_roi_pool, samples, device, second_derivative=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.ps_roi_pool
    features, rois = torch.randn(2, 3 * 49, 25, 38, dtype=dtype), shared.random_rois(25, 2, 25, 38).to(dtype)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    expected, actual = (
        peer(features.contiguous(), rois, 7, 0.75),
        ps_roi_pool(features.to(device), rois.to(device), 7, 0.75),
    )
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    rois[:, 1:].clamp_(0, 22 / 0.75)  # torchvision's gradient goes to the last row and column too, which it never reads
    theirs, ours = features.contiguous().detach().requires_grad_(), features.to(device).detach().requires_grad_()
    grad = torch.randn(expected.shape, dtype=dtype)
    (expected_grad,) = torch.autograd.grad(peer(theirs, rois, 7, 0.75), theirs, grad)
    (actual_grad,) = torch.autograd.grad(ps_roi_pool(ours, rois.to(device), 7, 0.75), ours, grad.to(device))
    torch.testing.assert_close(actual_grad.cpu(), expected_grad, rtol=1e-4, atol=1e-4)


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 9))
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int) -> None:
    shared.check_one_by_one(ps_roi_pool, seed, channels, k)


def test_layouts(device: torch.device) -> None:
    shared.check_layouts(ps_roi_pool, device)


@pytest.mark.threads
def test_threads() -> None:
    shared.check_threads(ps_roi_pool)


def test_values_without_meaning(device: torch.device) -> None:
    shared.check_values_without_meaning(ps_roi_pool, device)


def test_image_index_out_of_range(device: torch.device, request: pytest.FixtureRequest) -> None:
    shared.check_impossible_images("ps_roi_pool", ps_roi_pool, request)


@pytest.mark.parametrize(("arguments", "message"), shared.mistakes())
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(ps_roi_pool, arguments, message, device)


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    module = PSRoIPool((2, 3), spatial_scale=0.5)
    assert repr(module) == "PSRoIPool(output_size=(2, 3), spatial_scale=0.5)"
    shared.check_lists_modules_and_mixed_dtypes(ps_roi_pool, module, device, 0.5)
