import math

import position_sensitive as shared
import pytest
import regions
import torch
from checks import Sample, check_operator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detops.ops import PSRoIAlign, ps_roi_align

FIXED = settings(max_examples=20, deadline=None, derandomize=True)


def pixels(low: float, high: float, bin: int, bins: int, size: int, ratio: int = -1) -> dict[int, float]:
    """Weights of the pixels that a bin takes: the mean of its bilinear samples."""
    start, step = low - 0.5, (high - low) / bins
    count = ratio if ratio > 0 else math.ceil(step)
    weights: dict[int, float] = {}
    for sample in range(count):
        position = start + bin * step + (sample + 0.5) * step / count
        if not -1 <= position <= size:
            continue
        position = min(max(position, 0), size - 1)
        left = math.floor(position)
        for pixel, weight in ((left, 1 - (position - left)), (min(left + 1, size - 1), position - left)):
            weights[pixel] = weights.get(pixel, 0) + weight / count
    return weights


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (2, 2, 20, 40)])
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_matches_the_paper(
    device: torch.device, shape: tuple[int, int, int, int], size: tuple[int, int], ratio: int
) -> None:
    images, channels, height, width = shape
    features = torch.randn(images, channels * size[0] * size[1], height, width, dtype=torch.float64)
    rois = shared.random_rois(8, images, height, width)
    expected = shared.reference(features, rois, size, lambda *along: pixels(*along, ratio))
    actual = ps_roi_align(features.to(device), rois.to(device), size, 1.0, ratio)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_by_hand(device: torch.device) -> None:
    """Two channels for a row of two bins: the left one reads the first, the right one the second."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    features = torch.cat([ramp, 10 * ramp], dim=1).to(device)
    box = torch.tensor([[0.0, 1, 1, 3, 3]], device=device)  # x samples at 1 and 2, pixel centres at halves
    assert ps_roi_align(features, box, (1, 2), 1.0, 1).flatten().tolist() == [1.0, 20.0]


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    def features(*shape: int) -> Tensor:
        return torch.randint(-16, 16, shape).double() / 4

    nothing = torch.zeros(0, 5, dtype=torch.float64)
    samples = [
        Sample((features(2, 8, 6, 5), shared.random_rois(4, 2, 6, 5), 2, 1.0, 2), differentiable=(0,)),
        Sample((features(2, 12, 4, 5), shared.random_rois(3, 2, 4, 5), (3, 2), 0.5), differentiable=(0,)),
        Sample((features(2, 4, 6, 5), nothing, 2), differentiable=(0,)),
        Sample((features(1, 0, 6, 5), shared.random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((features(1, 4, 0, 5), shared.random_rois(4, 1, 6, 5), 2), differentiable=(0,)),
        Sample((features(0, 4, 4, 4), nothing, 2), differentiable=(0,)),
    ]
    check_operator(ps_roi_align, samples, device, second_derivative=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_agrees_with_torchvision(device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
    peer = pytest.importorskip("torchvision", reason="torchvision is not installed").ops.ps_roi_align
    features, rois = torch.randn(2, 3 * 49, 25, 38, dtype=dtype), shared.random_rois(25, 2, 25, 38).to(dtype)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    theirs = features.contiguous().detach().requires_grad_()
    ours = features.to(device).detach().requires_grad_()
    expected, actual = peer(theirs, rois, 7, 0.75, 2), ps_roi_align(ours, rois.to(device), 7, 0.75, 2)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn(expected.shape, dtype=dtype)
    (expected_grad,) = torch.autograd.grad(expected, theirs, grad)
    (actual_grad,) = torch.autograd.grad(actual, ours, grad.to(device))
    torch.testing.assert_close(actual_grad.cpu(), expected_grad, rtol=1e-4, atol=1e-4)


@FIXED
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 9))
def test_regions_are_pooled_one_by_one(seed: int, channels: int, k: int) -> None:
    shared.check_one_by_one(ps_roi_align, seed, channels, k)


def test_layouts(device: torch.device) -> None:
    shared.check_layouts(ps_roi_align, device)


@pytest.mark.threads
def test_threads() -> None:
    shared.check_threads(ps_roi_align)


def test_values_without_meaning(device: torch.device) -> None:
    shared.check_values_without_meaning(ps_roi_align, device)


def test_image_index_out_of_range(device: torch.device, request: pytest.FixtureRequest) -> None:
    shared.check_impossible_images("ps_roi_align", ps_roi_align, request)


@pytest.mark.parametrize(("arguments", "message"), shared.mistakes())
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(ps_roi_align, arguments, message, device)


def test_lists_modules_and_mixed_dtypes(device: torch.device) -> None:
    module = PSRoIAlign((2, 3), spatial_scale=0.5, sampling_ratio=2)
    assert repr(module) == "PSRoIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2)"
    shared.check_lists_modules_and_mixed_dtypes(ps_roi_align, module, device, 0.5, 2)
