import math

import pytest
import regions
import torch
from checks import Sample, check_operator
from regions import INF, NAN, bilinear, small_input
from torch import Tensor

from detops.ops import roi_align, roi_align_rotated


def reference(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float = 1.0,
    ratio: int = 0,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """Point by point, in plain Python: a regular grid along the sides of the box."""
    maps, (rows, columns) = features.double().tolist(), size
    output = torch.zeros(len(rois), features.shape[1], rows, columns, dtype=torch.float64)
    for k, (image, cx, cy, w, h, angle) in enumerate(rois.double().tolist()):
        shift, turn = (0.5 if aligned else 0.0), (angle if clockwise else -angle)
        cx, cy, w, h = cx * scale - shift, cy * scale - shift, w * scale, h * scale
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        down = ratio if ratio > 0 else math.ceil(h / rows)
        across = ratio if ratio > 0 else math.ceil(w / columns)
        for c, plane in enumerate(maps[int(image)]):
            for p in range(rows):
                for q in range(columns):
                    total = 0.0
                    for i in range(down):
                        for j in range(across):
                            v = (p + (i + 0.5) / down) * h / rows - h / 2
                            u = (q + (j + 0.5) / across) * w / columns - w / 2
                            x = cx + u * math.cos(turn) - v * math.sin(turn)
                            y = cy + u * math.sin(turn) + v * math.cos(turn)
                            total += bilinear(plane, y, x)
                    output[k, c, p, q] = total / max(down * across, 1)
    return output


def random_rois(k: int, images: int, height: int, width: int) -> Tensor:
    """Regions on and over the edge of a map, some far out, at any angle; exact in every dtype."""
    centres = torch.randint(-12, 4 * max(height, width), (k, 2)) / 4
    sizes = torch.randint(1, 4 * max(height, width), (k, 2)) / 4
    angles = torch.randint(-64, 64, (k, 1)) / 16
    return torch.cat([torch.randint(images, (k, 1)), centres, sizes, angles], dim=1).double()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 17, 12, 5), (2, 40, 6, 33)])
@pytest.mark.parametrize("ratio", [0, 1, 2, 5])
@pytest.mark.parametrize(("aligned", "clockwise"), [(True, False), (False, True)])
def test_matches_the_definition(
    device: torch.device, shape: tuple[int, int, int, int], ratio: int, aligned: bool, clockwise: bool
) -> None:
    features, rois = small_input(*shape), random_rois(6, shape[0], *shape[2:])
    size = (3, 2) if ratio != 2 else (5, 7)
    expected = reference(features[:, :3], rois, size, 0.5, ratio, aligned, clockwise)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = features.to(device, memory_format=layout)
        actual = roi_align_rotated(maps, rois.to(device), size, 0.5, ratio, aligned, clockwise).cpu()
        assert actual.shape == (6, shape[1], *size) and actual.dtype == torch.float64
        torch.testing.assert_close(actual[:, :3], expected, rtol=1e-9, atol=1e-12)
        single = roi_align_rotated(maps.float(), rois.float().to(device), size, 0.5, ratio, aligned, clockwise).cpu()
        torch.testing.assert_close(single, actual.float(), rtol=1e-4, atol=2e-5)


def test_by_hand(device: torch.device) -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).to(device)  # value 4 y + x

    def pooled(box: list[float], size: tuple[int, int], clockwise: bool = False) -> list[float]:
        rois = torch.tensor([[0, *box]], dtype=torch.float64, device=device)
        return roi_align_rotated(ramp.double(), rois, size, sampling_ratio=1, clockwise=clockwise).flatten().tolist()

    assert pooled([2, 2, 2, 2, 0], (1, 1)) == [7.5]  # one sample at (1.5, 1.5)
    assert pooled([2, 2, 2, 2, 0], (1, 2)) == [7.0, 8.0]
    up = pooled([2, 2, 2, 2, math.pi / 2], (1, 2))  # counter-clockwise: the width points up
    down = pooled([2, 2, 2, 2, math.pi / 2], (1, 2), clockwise=True)
    assert up == pytest.approx([9.5, 5.5]) and down == pytest.approx([5.5, 9.5])
    assert pooled([2, 2, 2, 2, math.pi], (1, 2)) == pytest.approx([8.0, 7.0])


@pytest.mark.parametrize("ratio", [0, 2])
def test_upright_regions_are_those_of_roi_align(device: torch.device, ratio: int) -> None:
    features, boxes = small_input(2, 20, 15, 18).to(device), random_rois(12, 2, 15, 18).to(device)
    boxes[:, 5] = 0
    corners = torch.cat([boxes[:, :1], boxes[:, 1:3] - boxes[:, 3:5] / 2, boxes[:, 1:3] + boxes[:, 3:5] / 2], dim=1)
    actual = roi_align_rotated(features, boxes, (3, 4), 0.5, ratio)
    torch.testing.assert_close(actual, roi_align(features, corners, (3, 4), 0.5, ratio, aligned=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient_is_the_transpose(device: torch.device, layout: torch.memory_format, ratio: int) -> None:
    """Of a linear map: its matrix, column by column, against the gradient's."""
    rois = random_rois(9, 2, 6, 5)
    units = torch.eye(30, dtype=torch.float64).view(30, 1, 6, 5).to(device)
    columns = [
        roi_align_rotated(u.expand(2, 1, 6, 5), rois.to(device), (2, 3), 1.0, ratio).cpu() for u in units[:, None]
    ]
    matrix = torch.stack([c.view(9, 6) for c in columns])  # pixel, region, bin
    features = torch.zeros(2, 21, 6, 5, dtype=torch.float64, device=device).to(memory_format=layout).requires_grad_()
    grad = torch.randn(9, 21, 2, 3, dtype=torch.float64)
    output = roi_align_rotated(features, rois.to(device), (2, 3), 1.0, ratio)
    (actual,) = torch.autograd.grad(output, features, grad.to(device))
    for image in range(2):
        of_image = rois[:, 0] == image
        expected = torch.einsum("prb,rcb->cp", matrix[:, of_image], grad[of_image].flatten(2))
        torch.testing.assert_close(actual[image].cpu(), expected.view(21, 6, 5), rtol=1e-9, atol=1e-12)


def test_many_regions(device: torch.device) -> None:
    """In several bands and lists."""
    features, rois = torch.randn(2, 19, 40, 50).double().requires_grad_(), random_rois(200, 2, 40, 50)
    grad = torch.randn(200, 19, 2, 2).double()
    regions.check_many(lambda *of: roi_align_rotated(*of, 2), features, rois, grad, device, 1e-7)


@pytest.mark.one_instruction_set
def test_operator(device: torch.device) -> None:
    rois = random_rois(5, 2, 6, 7)
    empty = torch.zeros(0, 6, dtype=torch.float64)
    samples = [
        Sample((small_input(2, 5, 6, 7), rois, (2, 3)), differentiable=(0,), castable=(0,)),
        Sample((small_input(2, 17, 6, 7), rois, 2, 0.5, 2, False, True), differentiable=(0,), castable=(0,)),
        Sample((small_input(2, 3, 6, 7), empty, 2), differentiable=(0,), castable=(0,)),
        Sample((torch.zeros(0, 3, 6, 7, dtype=torch.float64), empty, 2), differentiable=(0,), castable=(0,)),
        Sample((torch.zeros(2, 0, 6, 7, dtype=torch.float64), rois, 2), differentiable=(0,), castable=(0,)),
    ]
    check_operator(roi_align_rotated, samples, device, second_derivative=True)


@pytest.mark.parametrize("ratio", [0, 2, 20])
def test_values_without_meaning(device: torch.device, ratio: int) -> None:
    """Nothing crashes or takes long; what is nowhere is zero and passes no gradient."""
    good = [0.0, 4, 4, 4, 4, 0.5]
    odd = [[*good[:i], value, *good[i + 1 :]] for i in range(1, 6) for value in (NAN, INF, -INF)]
    odd += [[0, 4, 4, 4, 4, 1e30], [0, 1e30, -1e30, 4, 4, 1], [0, 1e30, 1e30, 1e30, 1e30, 1]]
    features = torch.ones(1, 3, 8, 8, device=device, requires_grad=True)
    output = roi_align_rotated(features, torch.tensor(odd, device=device), 2, sampling_ratio=ratio)
    assert (output == 0).all()
    (grad,) = torch.autograd.grad(output.sum(), features)
    assert (grad == 0).all()
    huge = torch.tensor([[0, 4, 4, 1e6, 1e6, 0.3], [0, 4, 4, 0, 0, 0.3], [0, 4, 4, -3, -2, 1]], device=device)
    assert roi_align_rotated(features, huge, 2, sampling_ratio=ratio).isfinite().all()


@pytest.mark.parametrize("index", regions.NO_IMAGE)
def test_image_index_out_of_range(index: float) -> None:
    features, grad, region = torch.ones(2, 3, 8, 8), torch.ones(2, 3, 2, 2), [4, 4, 4, 4, 0.5]
    backward = torch.ops.detops.roi_align_rotated_backward
    for name, pool in {
        "roi_align_rotated": lambda rois: roi_align_rotated(features, rois, 2),
        "roi_align_rotated_backward": lambda rois: backward(grad, rois, 1.0, 2, 2, 2, 3, 8, 8, 0, True, False, False),
    }.items():
        regions.check_image_is_refused(name, pool, index, region)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_index_out_of_range_on_a_gpu(gpu: torch.device, layout: torch.memory_format) -> None:
    features = torch.ones(2, 3, 8, 8, device=gpu).to(memory_format=layout).requires_grad_()
    pooled = regions.check_images_are_zero(lambda *of: roi_align_rotated(*of, 2), [4, 4, 4, 4, 0.5], features)
    assert (pooled == 1).all()


def test_layout_is_kept(device: torch.device) -> None:
    regions.check_layout_is_kept(lambda *of: roi_align_rotated(*of, 3), device, random_rois(5, 2, 10, 12))


def test_mixed_dtypes_and_autocast(device: torch.device) -> None:
    features, rois = torch.randn(1, 9, 20, 20, device=device), random_rois(5, 1, 20, 20).float().to(device)
    regions.check_mixed_dtypes(lambda *of: roi_align_rotated(*of, 3), features, rois)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert roi_align_rotated(features, rois.double(), 3).dtype == torch.float32


@pytest.mark.parametrize(("arguments", "message"), regions.mistakes(columns=6))
def test_says_what_is_wrong(device: torch.device, arguments: tuple[object, ...], message: str) -> None:
    regions.check_mistake(roi_align_rotated, arguments, message, device)


@pytest.mark.threads
def test_threads(device: torch.device) -> None:
    features, rois = torch.randn(2, 64, 50, 60), random_rois(300, 2, 50, 60).float()
    regions.check_threads(
        lambda *of: roi_align_rotated(*of, 7, sampling_ratio=2), features.to(device).requires_grad_(), rois.to(device)
    )
