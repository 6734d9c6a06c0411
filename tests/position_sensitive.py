"""What the tests of both position-sensitive operators share."""

from collections.abc import Callable

import pytest
import regions
import torch
from checks import assert_equal
from regions import random_rois
from torch import Tensor

Pixels = Callable[[float, float, int, int, int], dict[int, float]]  # (low, high, bin, bins, size) -> weights


def reference(features: Tensor, rois: Tensor, size: tuple[int, int], pixels: Pixels) -> Tensor:
    """(K, C, PH, PW) from the definition, in plain Python; ``pixels`` says what a bin takes along an axis."""
    height, width = size
    channels = features.shape[1] // (height * width)
    output = torch.zeros(len(rois), channels, height, width, dtype=torch.float64)
    planes = features.double().tolist()
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        for i in range(height):
            for j in range(width):
                rows = pixels(y1, y2, i, height, features.shape[2])
                columns = pixels(x1, x2, j, width, features.shape[3])
                for c in range(channels):
                    plane = planes[int(image)][(c * height + i) * width + j]
                    output[k, c, i, j] = sum(plane[y][x] * a * b for y, a in rows.items() for x, b in columns.items())
    return output


def check_layouts(function: Callable[..., Tensor], device: torch.device) -> None:
    """channels_last in, channels_last out, and windows of a larger tensor; forward and backward."""
    rois = random_rois(5, 2, 10, 12).to(device)
    wide = torch.randn(2, 40, 30, 30, device=device)
    for features in (wide[:, :36, :10, :12].contiguous(memory_format=torch.channels_last), wide[:, 2:38, 5:-4, 2:20]):
        ours, plain = features.detach().requires_grad_(), features.contiguous().detach().requires_grad_()
        pooled, expected = function(ours, rois, (2, 3), 0.5), function(plain, rois, (2, 3), 0.5)
        assert torch.equal(pooled, expected)
        grad = torch.randn(pooled.shape, device=device)
        grads = torch.autograd.grad(pooled, ours, grad), torch.autograd.grad(expected, plain, grad)
        assert_equal(*grads)
        if features.is_contiguous(memory_format=torch.channels_last):
            assert pooled.is_contiguous(memory_format=torch.channels_last)
            assert grads[0][0].is_contiguous(memory_format=torch.channels_last)


def check_threads(function: Callable[..., Tensor]) -> None:
    features, rois = torch.randn(2, 98, 40, 50).requires_grad_(), random_rois(500, 2, 40, 50).float()
    regions.check_threads(lambda features: function(features, rois, 7), features)


def check_values_without_meaning(function: Callable[..., Tensor], device: torch.device) -> None:
    """What is far away is zero."""
    features = torch.randn(1, 18, 12, 15, device=device, requires_grad=True)
    for value in regions.MEANINGLESS:
        pooled, _ = regions.check_meaningless(lambda *of: function(*of, 3), value, features)
        if value == value:
            assert (pooled[5] == 0).all()


def check_one_by_one(function: Callable[..., Tensor], seed: int, channels: int, k: int) -> None:
    """A region depends neither on the others nor on their order; a constant map pools to its value inside."""
    torch.manual_seed(seed)
    features = torch.randn(2, 4 * channels, 20, 24)
    regions.check_one_by_one(lambda rois: function(features, rois, 2), random_rois(k, 2, 16, 16))
    inside = torch.tensor([[1.0, 2, 3, 14, 12]])
    torch.testing.assert_close(function(torch.full((2, 4, 20, 24), 2.5), inside, 2), torch.full((1, 1, 2, 2), 2.5))


def check_lists_modules_and_mixed_dtypes(
    function: Callable[..., Tensor], module: torch.nn.Module, device: torch.device, *options: float
) -> None:
    """``module``: of 2 x 3 bins and the ``options`` of ``function`` that follow these."""
    features, (boxes, rois) = torch.randn(3, 12, 10, 12, device=device), regions.boxes_by_image(device)
    expected = function(features, rois, (2, 3), *options)
    assert torch.equal(function(features, boxes, (2, 3), *options), expected)
    assert torch.equal(module(features, boxes), expected)
    regions.check_mixed_dtypes(module, features, rois)


def check_impossible_images(name: str, function: Callable[..., Tensor], request: pytest.FixtureRequest) -> None:
    """An error on the CPU; on CUDA, emulated or not, zeros and no gradient."""
    place = request.node.callspec.id
    features = torch.ones(2, 4, 4, 4, device="cuda" if place.startswith("cuda") else "cpu", requires_grad=True)
    if not place.startswith("cpu"):
        regions.check_images_are_zero(lambda *of: function(*of, 2), [0, 0, 2, 2], features)
        return
    for index in regions.NO_IMAGE:
        regions.check_image_is_refused(name, lambda rois: function(features, rois, 2), index)


def mistakes() -> list[tuple[tuple[object, ...], str]]:
    """Arguments (input, boxes, output_size) that are wrong, and what is said."""
    arguments = torch.ones(1, 4, 4, 4), torch.zeros(2, 5), 3
    message = "expected input of a multiple of 9 channels, one for each bin, got 4"
    return [*regions.mistakes(), *regions.MISTAKEN_LISTS, (arguments, message)]
