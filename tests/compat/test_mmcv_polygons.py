"""Polygons of mmcv._ext against exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from rotated import area, intersection
from torch import Tensor
from torch.testing import assert_close

from detops.compat.mmcv import _ext as ext


def rationals(polygon: list[list[float]]) -> list[tuple[Fraction, Fraction]]:
    """All the same way round."""
    points = [(Fraction(x), Fraction(y)) for x, y in polygon]
    return points if area(points) >= 0 else points[::-1]


def hull(points: list[list[float]]) -> list[tuple[Fraction, Fraction]]:
    """Monotone chain."""
    ordered = sorted({(Fraction(x), Fraction(y)) for x, y in points})
    chains = []
    for walk in (ordered, ordered[::-1]):
        chain: list[tuple[Fraction, Fraction]] = []
        for p in walk:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    return chains[0] + chains[1]


def exact_iou(a: list[tuple[Fraction, Fraction]], b: list[tuple[Fraction, Fraction]]) -> float:
    shared = intersection(a, b)
    return float(shared / (area(a) + area(b) - shared))


def quadrilaterals(n: int) -> Tensor:
    """Convex ones, both ways round, (N, 8): corners on ellipses."""
    angles = torch.rand(n, 4).cumsum(1) / 4 * 2 * math.pi * 0.99
    angles[::2] = -angles[::2]
    sizes, centres = torch.rand(n, 1, 2) * 10 + 5, torch.rand(n, 1, 2) * 20
    return (torch.stack([angles.cos(), angles.sin()], -1) * sizes + centres).flatten(1)


def corners(flat: Tensor) -> list[list[list[float]]]:
    return flat.unflatten(-1, (-1, 2)).tolist()


def test_box_iou_quadri(place: torch.device) -> None:
    first, second = quadrilaterals(12), quadrilaterals(12)
    first[0] = second[0] = torch.tensor([0.0, 0, 4, 0, 4, 4, 0, 4])  # the same
    second[1] = torch.tensor([4.0, 0, 8, 0, 8, 4, 4, 4])  # side by side with it
    found = torch.full((144,), math.nan, device=place)
    ext.box_iou_quadri(first.to(place), second.to(place), found, mode_flag=0, aligned=False)
    expected = [[exact_iou(rationals(a), rationals(b)) for b in corners(second)] for a in corners(first)]
    assert expected[0][:2] == [1, 0] and sum(0 < iou < 1 for row in expected for iou in row) > 30
    assert_close(found.view(12, 12).cpu(), torch.tensor(expected), atol=1e-6, rtol=1e-5)
    of_first = torch.full((12,), math.nan, device=place)
    ext.box_iou_quadri(first.to(place), second.to(place), of_first, mode_flag=1, aligned=True)
    pairs = zip(map(rationals, corners(first)), map(rationals, corners(second)), strict=True)
    assert_close(of_first.cpu(), torch.tensor([float(intersection(a, b) / area(a)) for a, b in pairs]))


def test_nms_quadri(place: torch.device) -> None:
    polygons, scores, labels = quadrilaterals(40), torch.randperm(40) / 40, torch.arange(40) % 2
    exact = [rationals(p) for p in corners(polygons)]
    order = scores.argsort(descending=True)
    for with_labels in (False, True):
        keep: list[int] = []
        for i in order.tolist():
            rivals = [j for j in keep if not with_labels or labels[i] == labels[j]]
            if all(exact_iou(exact[i], exact[j]) <= 0.3 for j in rivals):
                keep.append(i)
        dets = (torch.cat([polygons, labels[:, None]], dim=1) if with_labels else polygons).to(place)
        found = ext.nms_quadri(dets, scores.to(place), order.to(place), dets[order.to(place)], 0.3, with_labels)
        assert found.tolist() == keep and len(keep) < 40


def test_convex_iou(place: torch.device) -> None:
    sets, quads = torch.rand(9, 18) * 20, quadrilaterals(7)
    sets[0, 2:] = sets[0, :2].repeat(8)  # nine times the same point
    sets[1, 8:10] = sets[1, 6:8]
    found = torch.full((9, 7), math.nan, device=place)
    ext.convex_iou(sets.to(place), quads.to(place), found)
    assert found[0].eq(0).all()
    expected = [[exact_iou(hull(a), rationals(b)) for b in corners(quads)] for a in corners(sets[1:])]
    assert_close(found[1:].cpu(), torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_convex_giou(place: torch.device) -> None:
    sets, quads = (torch.rand(6, 18) * 20).double(), quadrilaterals(6).double()
    output = torch.full((6, 19), math.nan, dtype=torch.float64, device=place)
    ext.convex_giou(sets.to(place), quads.to(place), output)
    output = output.cpu()

    def giou(points: list[list[float]], quad: list[list[float]]) -> float:
        a, b = hull(points), rationals(quad)
        shared, whole = intersection(a, b), area(hull(points + quad))
        union = area(a) + area(b) - shared
        return float(shared / union - (whole - union) / whole)

    for i in range(6):
        quad = corners(quads)[i]
        assert output[i, 18].item() == pytest.approx(giou(corners(sets)[i], quad))
        for k in range(18):
            step = torch.zeros(18, dtype=torch.float64)
            step[k] = 1e-5
            ahead, behind = (giou(corners((sets[i] + s)[None])[0], quad) for s in (step, -step))
            assert output[i, k].item() == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)


def test_min_area_polygons(place: torch.device) -> None:
    sets = torch.rand(20, 18) * 30
    found = torch.full((20, 8), math.nan, device=place)
    ext.min_area_polygons(sets.to(place), found)
    angles = torch.arange(0, math.pi / 2, 1e-4)
    for points, rectangle in zip(sets.unflatten(1, (9, 2)), found.cpu().unflatten(1, (4, 2)), strict=True):
        turned = points @ torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1).unflatten(
            -1, (2, 2)
        )
        least = (turned.amax(1) - turned.amin(1)).prod(-1).min()
        sides = rectangle.roll(-1, 0) - rectangle
        assert_close(sides[0], -sides[2], atol=1e-4, rtol=0)
        assert (sides[0] * sides[1]).sum().abs() < 1e-2
        size = sides[:2].norm(dim=1)
        assert_close(size.prod(), least, rtol=1e-3, atol=0)
        along = (points - rectangle[0]) @ sides[:2].T / size
        assert (along > -1e-3).all() and (along < size + 1e-3).all()


def test_points_in_polygons(place: torch.device) -> None:
    squares = torch.tensor([[0.0, 0, 4, 0, 4, 4, 0, 4], [2, 0, 4, 2, 2, 4, 0, 2]], device=place)
    points = torch.tensor([[2.0, 2.5], [0.5, 0.6], [5, 5], [-1, 2.2]], device=place)
    found = torch.full((4, 2), math.nan, device=place)
    ext.points_in_polygons_forward(points, squares, found)
    assert found.tolist() == [[1, 1], [1, 0], [0, 0], [0, 0]]
