"""What the tests of both position-sensitive operators share."""

from collections.abc import Callable

import pytest
import torch
from checks import assert_equal
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


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions on and over the edge of a map, some far out; coordinates in quarters, exact in every dtype."""
    corners = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = torch.randint(1, 4 * max(height, width), (k, 2)) / 4
    return torch.cat([torch.randint(images, (k, 1)), corners, corners + sizes], dim=1).double()


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
    """Any number of threads gives the same bits, forward and backward."""
    before, results = torch.get_num_threads(), []
    features, rois = torch.randn(2, 98, 40, 50), random_rois(500, 2, 40, 50).float()
    grad = torch.randn(500, 2, 7, 7)
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                leaf = features.to(memory_format=layout).requires_grad_()
                pooled = function(leaf, rois, 7)
                results.append((pooled.detach(), torch.autograd.grad(pooled, leaf, grad)[0]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_equal(result, results[0])


def check_values_without_meaning(function: Callable[..., Tensor], device: torch.device) -> None:
    """Neither crash nor endless loop; other regions do not notice; what is far away is zero."""
    features = torch.randn(1, 18, 12, 15, device=device, requires_grad=True)
    good = [0.0, 1.0, 2.0, 9.0, 8.0]
    for value in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38):
        rows = [good] + [[*good[:i], value, *good[i + 1 :]] for i in range(1, 5)] + [[0.0] + [value] * 4]
        pooled = function(features, torch.tensor(rows, device=device), 3)
        assert torch.equal(pooled[:1], function(features, torch.tensor([good], device=device), 3))
        assert pooled.isfinite().all()
        if value == value:
            assert (pooled[5] == 0).all()
        (grad,) = torch.autograd.grad(pooled.sum(), features)
        assert grad.isfinite().all()


def check_impossible_images(name: str, function: Callable[..., Tensor], request: pytest.FixtureRequest) -> None:
    """An error on the CPU; on CUDA, emulated or not, zeros and no gradient."""
    place = request.node.callspec.id
    device = torch.device("cuda" if place.startswith("cuda") else "cpu")
    for index in (-1.0, 2.0, float("nan"), float("inf"), 1e30):
        features = torch.ones(2, 4, 4, 4, device=device, requires_grad=True)
        rois = torch.tensor([[1.0, 0, 0, 2, 2], [index, 0, 0, 2, 2]], device=device)
        if place.startswith("cpu"):
            with pytest.raises(RuntimeError, match=rf"^{name}: expected rois\[:, 0\] from 0 to 1, got .* in row 1"):
                function(features, rois, 2)
            continue
        pooled = function(features, rois, 2)
        assert (pooled[1] == 0).all() and (pooled[0] != 0).any()
        (grad,) = torch.autograd.grad(pooled.sum(), features)
        assert (grad[0] == 0).all() and grad.isfinite().all()


BAD = [
    ({"input": torch.ones(4, 4, 4)}, r"expected input of shape \(\*, \*, \*, \*\), got \(4, 4, 4\)"),
    ({"input": torch.ones(1, 4, 4, 4, dtype=torch.int64)}, "expected input of dtype float32, .*, got int64"),
    ({"boxes": torch.ones(2, 4)}, r"expected rois of shape \(\*, 5\), got \(2, 4\)"),
    ({"boxes": torch.ones(2, 5).long()}, "expected rois of dtype float32, .*, got int64"),
    ({"output_size": 0}, "expected pooled_height of at least 1, got 0"),
    ({"output_size": (2, -1)}, "expected pooled_width of at least 1, got -1"),
    ({"output_size": 3}, "expected input of a multiple of 9 channels, one for each bin, got 4"),
    ({"boxes": torch.ones(2, 5, device="meta")}, "expected rois on the device of input, .*, got"),
    ({"boxes": []}, "expected boxes of at least one image, got an empty list"),
]


def check_bad_input(name: str, function: Callable[..., Tensor]) -> None:
    """Each mistake has one message, in eager mode and traced."""
    for i, (change, message) in enumerate(BAD):
        arguments = {"input": torch.ones(1, 4, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2, **change}
        with pytest.raises(RuntimeError, match=f"^{name}: {message}") as eager:
            function(**arguments)
        if i >= len(BAD) - 2:
            continue
        with pytest.raises(RuntimeError) as traced:
            function(**{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in arguments.items()})
        assert str(traced.value) == str(eager.value)
