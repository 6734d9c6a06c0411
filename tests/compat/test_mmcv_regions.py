"""Regions and samples of feature maps in mmcv._ext, called as mmcv/ops calls them, against slow references."""

import math

import pytest
import torch
import torchvision
from samples import bin_samples, gradients, rois_over, sample
from torch import Tensor
from torch.testing import assert_close

from detops import ops
from detops.compat.mmcv import _ext as ext


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_mean(place: torch.device, ratio: int, aligned: bool) -> None:
    maps, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), rois_over(8, 9)
    numbers = {"spatial_scale": 0.5, "sampling_ratio": ratio, "aligned": aligned}
    size = {"aligned_height": 2, "aligned_width": 3, "pool_mode": 1}
    output, none = maps.new_zeros(5, 3, 2, 3).to(place), maps.new_zeros(0).to(place)
    ext.roi_align_forward(maps.to(place), rois.to(place), output, none, none, **size, **numbers)

    def reference(maps: Tensor) -> Tensor:
        return torchvision.ops.roi_align(maps, rois, (2, 3), 0.5, ratio or -1, aligned)

    assert_close(output.cpu(), reference(maps))
    grad, grad_input = torch.randn(5, 3, 2, 3, dtype=torch.float64), torch.zeros_like(maps).to(place)
    ext.roi_align_backward(grad.to(place), rois.to(place), none, none, grad_input, **size, **numbers)
    assert_close(grad_input.cpu(), gradients(reference, [maps], grad)[0])


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_max(place: torch.device, ratio: int, aligned: bool) -> None:
    maps, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), rois_over(8, 9)
    numbers = {"spatial_scale": 0.5, "sampling_ratio": ratio, "aligned": aligned}
    size = {"aligned_height": 2, "aligned_width": 3, "pool_mode": 0}
    output, y, x = (maps.new_full((5, 3, 2, 3), math.nan, device=place) for _ in range(3))
    ext.roi_align_forward(maps.to(place), rois.to(place), output, y, x, **size, **numbers)

    def reference(maps: Tensor) -> Tensor:
        return torch.stack([bin_samples(maps, roi, (2, 3), 0.5, ratio, aligned).amax(-1) for roi in rois])

    assert_close(output.cpu(), reference(maps))
    there = [
        sample(maps[int(roi[0]), c], y[k, c, 0, 1].cpu(), x[k, c, 0, 1].cpu())
        for k, roi in enumerate(rois)
        for c in range(3)
    ]
    assert_close(torch.stack(there).view(5, 3), output[:, :, 0, 1].cpu())
    grad, grad_input = torch.randn(5, 3, 2, 3, dtype=torch.float64), torch.zeros_like(maps).to(place)
    grad[3] = 0  # outside, where all samples are alike
    ext.roi_align_backward(grad.to(place), rois.to(place), y, x, grad_input, **size, **numbers)
    assert_close(grad_input.cpu(), gradients(reference, [maps], grad)[0])


def test_roi_pool(place: torch.device) -> None:
    maps, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), rois_over(8, 9)
    rois = torch.cat([rois, torch.tensor([[0, 9.0, 2, 7.5, 6]], dtype=torch.float64)])  # ends before it starts

    def bins(start: float, end: float, count: int, size: int) -> list[range]:
        start, end = start * 0.5, (end + 1) * 0.5
        step = (end - start) / count
        edges = [(math.floor(i * step + start), math.ceil((i + 1) * step + start)) for i in range(count)]
        return [range(max(low, 0), min(high, size)) if step > 0 else range(0) for low, high in edges]

    def reference(maps: Tensor) -> Tensor:
        cells = []
        for image, x1, y1, x2, y2 in rois.tolist():
            for plane in maps[int(image)]:
                for rows in bins(y1, y2, 2, 8):
                    for columns in bins(x1, x2, 3, 9):
                        part = plane[rows.start : rows.stop, columns.start : columns.stop]
                        cells.append(part.max() if len(rows) > 0 and len(columns) > 0 else maps.new_zeros(()))
        return torch.stack(cells).view(6, 3, 2, 3)

    size = {"pooled_height": 2, "pooled_width": 3, "spatial_scale": 0.5}
    output, argmax = (
        maps.new_full((6, 3, 2, 3), math.nan).to(place),
        torch.zeros(6, 3, 2, 3, dtype=torch.int, device=place),
    )
    ext.roi_pool_forward(maps.to(place), rois.to(place), output, argmax, **size)
    assert torch.equal(output.cpu(), reference(maps))
    assert argmax[0, 1, 1, 2].item() == maps[0, 1].flatten().tolist().index(output[0, 1, 1, 2].item())
    assert argmax[5].eq(-1).all() and argmax[3].eq(-1).all()
    grad, grad_input = torch.randn(6, 3, 2, 3, dtype=torch.float64), torch.zeros_like(maps).to(place)
    ext.roi_pool_backward(grad.to(place), rois.to(place), argmax, grad_input, **size)
    assert_close(grad_input.cpu(), gradients(reference, [maps], grad)[0])


@pytest.mark.parametrize("clockwise", [False, True])
def test_roi_align_rotated(place: torch.device, clockwise: bool) -> None:
    maps = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    rois = torch.tensor([[0, 11.0, 12, 14, 6, 0.4], [1, 13, 10, 9, 12, -2.0]], dtype=torch.float64)

    def reference(maps: Tensor) -> Tensor:
        cells = []
        for image, cx, cy, w, h, angle in (rois * torch.tensor([1, 0.5, 0.5, 0.5, 0.5, 1])).tolist():
            cos, sin = math.cos(angle), math.sin(angle if clockwise else -angle)
            for plane in maps[int(image)]:
                for ph in range(2):
                    for pw in range(3):
                        places = [((ph + v) / 2 - 0.5, (pw + u) / 3 - 0.5) for v in (0.25, 0.75) for u in (0.25, 0.75)]
                        at = [
                            (cy - 0.5 + v * h * cos + u * w * sin, cx - 0.5 + u * w * cos - v * h * sin)
                            for v, u in places
                        ]
                        cells.append(
                            torch.stack([sample(plane, maps.new_tensor(y), maps.new_tensor(x)) for y, x in at]).mean()
                        )
        return torch.stack(cells).view(2, 3, 2, 3)

    numbers = {"spatial_scale": 0.5, "sampling_ratio": 2, "aligned": True, "clockwise": clockwise}
    size = {"pooled_height": 2, "pooled_width": 3}
    output = maps.new_zeros(2, 3, 2, 3).to(place)
    ext.roi_align_rotated_forward(maps.to(place), rois.to(place), output, **size, **numbers)
    assert_close(output.cpu(), reference(maps))
    grad, grad_input = torch.randn(2, 3, 2, 3, dtype=torch.float64), torch.zeros_like(maps).to(place)
    ext.roi_align_rotated_backward(grad.to(place), rois.to(place), grad_input, **size, **numbers)
    assert_close(grad_input.cpu(), gradients(reference, [maps], grad)[0])


def test_prroi_pool(place: torch.device) -> None:
    maps, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), rois_over(8, 9)
    size = {"pooled_height": 2, "pooled_width": 3, "spatial_scale": 0.5}

    def reference(maps: Tensor, rois: Tensor) -> Tensor:
        return ops.prroi_pool(maps, rois, (2, 3), 0.5)

    output = maps.new_zeros(5, 3, 2, 3).to(place)
    ext.prroi_pool_forward(maps.to(place), rois.to(place), output, **size)
    assert_close(output.cpu(), reference(maps, rois))
    grad = torch.randn(5, 3, 2, 3, dtype=torch.float64)
    expected = gradients(reference, [maps, rois], grad)
    grad_input, grad_rois = torch.zeros_like(maps).to(place), torch.zeros_like(rois).to(place)
    ext.prroi_pool_backward(grad.to(place), rois.to(place), grad_input, **size)
    ext.prroi_pool_coor_backward(output, grad.to(place), maps.to(place), rois.to(place), grad_rois, **size)
    assert_close((grad_input.cpu(), grad_rois.cpu()), expected)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("moved", [False, True])
def test_deform_roi_pool(place: torch.device, ratio: int, moved: bool) -> None:
    maps, rois = torch.randn(2, 2, 8, 9, dtype=torch.float64), rois_over(8, 9)
    offset = torch.randn(5, 2, 2, 3, dtype=torch.float64) if moved else maps.new_zeros(0)

    def reference(maps: Tensor, offset: Tensor) -> Tensor:
        moves = offset if moved else [None] * 5
        cells = [
            bin_samples(maps, roi, (2, 3), 0.5, ratio, True, move, 0.1) for roi, move in zip(rois, moves, strict=True)
        ]
        return torch.stack([samples.mean(-1) for samples in cells])

    numbers = {"pooled_height": 2, "pooled_width": 3, "spatial_scale": 0.5, "sampling_ratio": ratio, "gamma": 0.1}
    output = maps.new_zeros(5, 2, 2, 3).to(place)
    ext.deform_roi_pool_forward(maps.to(place), rois.to(place), offset.to(place), output, **numbers)
    assert_close(output.cpu(), reference(maps, offset))
    grad = torch.randn(5, 2, 2, 3, dtype=torch.float64)
    given = [torch.zeros_like(maps).to(place), torch.zeros_like(offset).to(place)]
    ext.deform_roi_pool_backward(grad.to(place), maps.to(place), rois.to(place), offset.to(place), *given, **numbers)
    expected = (
        gradients(reference, [maps, offset], grad) if moved else gradients(lambda m: reference(m, offset), [maps], grad)
    )
    for found, wanted in zip(given, expected, strict=moved):
        assert_close(found.cpu(), wanted)


def test_border_align(place: torch.device) -> None:
    maps = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    boxes = torch.tensor(
        [[[0.5, 1.2, 4.4, 5.1], [-2, 0, 3, 9]], [[1, 1, 6, 2], [2.2, 0.3, 2.9, 4]]], dtype=torch.float64
    )

    def reference(maps: Tensor) -> Tensor:
        cells = []
        for n in range(2):
            for c in range(2):
                for x1, y1, x2, y2 in boxes[n].tolist():
                    for side, (x, y, dx, dy) in enumerate(
                        [(x1, y1, x2 - x1, 0), (x1, y1, 0, y2 - y1), (x2, y2, x1 - x2, 0), (x2, y2, 0, y1 - y2)]
                    ):
                        points = [(maps.new_tensor(y + dy * i / 4), maps.new_tensor(x + dx * i / 4)) for i in range(5)]
                        cells.append(torch.stack([sample(maps[n, side * 2 + c], *point) for point in points]).max())
        return torch.stack(cells).view(2, 2, 2, 4)

    output = maps.new_zeros(2, 2, 2, 4).to(place)
    argmax = torch.zeros(2, 2, 2, 4, dtype=torch.int, device=place)
    ext.border_align_forward(maps.to(place), boxes.to(place), output, argmax, pool_size=4)
    assert_close(output.cpu(), reference(maps))
    grad, given = torch.randn(2, 2, 2, 4, dtype=torch.float64), torch.zeros_like(maps).to(place)
    ext.border_align_backward(grad.to(place), boxes.to(place), argmax, given, pool_size=4)
    assert_close(given.cpu(), gradients(reference, [maps], grad)[0])


@pytest.mark.parametrize("points", [1, 5])
def test_rotated_feature_align(place: torch.device, points: int) -> None:
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    boxes = torch.rand(2, 3, 4, 5, dtype=torch.float64) * torch.tensor([6, 8, 6, 4, 3])

    def reference(maps: Tensor) -> Tensor:
        result = maps.clone()
        for n, h, w in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
            y, x, along, across, angle = (boxes[n, h, w] * torch.tensor([0.5, 0.5, 0.25, 0.25, 1])).tolist()
            at = [(y, x)]
            for u, v in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
                down = u * along * math.sin(angle) + v * across * math.cos(angle)
                at.append((y + down, x + u * along * math.cos(angle) - v * across * math.sin(angle)))
            for c in range(2):
                for row, column in at[:points]:
                    result[n, c, h, w] += sample(maps[n, c], maps.new_tensor(row), maps.new_tensor(column))
        return result

    output = torch.zeros_like(maps).to(place)
    ext.rotated_feature_align_forward(maps.to(place), boxes.to(place), output, spatial_scale=0.5, points=points)
    assert_close(output.cpu(), reference(maps))
    grad, given = torch.randn_like(maps), torch.zeros_like(maps).to(place)
    ext.rotated_feature_align_backward(grad.to(place), boxes.to(place), given, spatial_scale=0.5, points=points)
    assert_close(given.cpu(), gradients(reference, [maps], grad)[0])


def test_active_rotated_filter(place: torch.device) -> None:
    filters = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    entries, rotations = 36, 5
    indices = torch.stack([torch.randperm(entries) + 1 for _ in range(rotations)], dim=1).view(4, 3, 3, rotations).int()

    def reference(filters: Tensor) -> Tensor:
        result = filters.new_zeros(3, rotations, 2, entries)
        for i, k, j, entry in torch.cartesian_prod(*map(torch.arange, (3, rotations, 2, entries))).tolist():
            result[i, k, j, indices.view(entries, rotations)[entry, k] - 1] = filters[i, j].flatten()[entry]
        return result.view(15, 8, 3, 3)

    output = filters.new_zeros(15, 8, 3, 3).to(place)
    ext.active_rotated_filter_forward(filters.to(place), indices.to(place), output)
    assert torch.equal(output.cpu(), reference(filters))
    grad, given = torch.randn(15, 8, 3, 3, dtype=torch.float64), torch.zeros_like(filters).to(place)
    ext.active_rotated_filter_backward(grad.to(place), indices.to(place), given)
    assert_close(given.cpu(), gradients(reference, [filters], grad)[0])
