"""Rotated boxes for tests: their overlap from exact rational arithmetic, and sets that are hard to get right."""

import math
from fractions import Fraction

import torch
from torch import Tensor

Point = tuple[Fraction, Fraction]


def corners(box: list[float], clockwise: bool = True) -> list[Point]:
    """Of (cx, cy, w, h, radians); exact but for the sine and cosine, in float64."""
    x, y, w, h, angle = box
    cos, sin = Fraction(math.cos(angle)), Fraction(math.sin(angle if clockwise else -angle))
    half_w, half_h = Fraction(w) / 2, Fraction(h) / 2
    return [
        (Fraction(x) + u * half_w * cos - v * half_h * sin, Fraction(y) + u * half_w * sin + v * half_h * cos)
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def area(polygon: list[Point]) -> Fraction:
    twice = sum(
        (p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True)), Fraction()
    )
    return twice / 2


def intersection(a: list[Point], b: list[Point]) -> Fraction:
    """Area that two convex polygons share: a cut along each side of b in turn (Sutherland and Hodgman)."""
    for p, q in zip(b, b[1:] + b[:1], strict=True):
        inside = [(q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]) for r in a]
        cut: list[Point] = []
        for i, r in enumerate(a):
            before, of_before = a[i - 1], inside[i - 1]
            if (inside[i] >= 0) != (of_before >= 0):
                t = of_before / (of_before - inside[i])
                cut.append((before[0] + t * (r[0] - before[0]), before[1] + t * (r[1] - before[1])))
            if inside[i] >= 0:
                cut.append(r)
        a = cut
        if not a:
            return Fraction()
    return area(a)


def exact_overlap(a: Tensor, b: Tensor, mode: str = "iou", clockwise: bool = True) -> float:
    """Of two proper boxes (5,)."""
    p, q = corners(a.tolist(), clockwise), corners(b.tolist(), clockwise)
    shared = intersection(p, q)
    return float(shared / (area(p) + area(q) - shared if mode == "iou" else area(p)))


def exact_pairs(a: Tensor, b: Tensor, mode: str = "iou", clockwise: bool = True) -> Tensor:
    """Pair by pair, (N,) float64."""
    pairs = zip(a, b, strict=True)
    return torch.tensor([exact_overlap(p, q, mode, clockwise) for p, q in pairs], dtype=torch.float64)


def random_rotated(n: int, extent: float = 60, largest: float = 40, angle: float = 10) -> Tensor:
    """(n, 5) float32."""
    centre, size = torch.rand(n, 2) * extent, torch.rand(n, 2) * largest + 0.5
    return torch.cat([centre, size, (torch.rand(n, 1) * 2 - 1) * angle], dim=1)


def next_to(boxes: Tensor) -> Tensor:
    """Each number moved to a neighbouring one of its dtype, up, down or not at all."""
    direction = torch.randint(-1, 2, boxes.shape)
    moved = torch.nextafter(boxes, boxes + direction)
    return torch.where(direction == 0, boxes, moved)


def hard_pairs(n: int = 30) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of float32 boxes, (n, 5) each, where implementations for float32 go wrong."""
    boxes = random_rotated(n)
    angles = torch.rand(n, 1) * 6 - 3
    along = torch.cat([angles.cos(), angles.sin()], dim=1)
    length = 10 ** (torch.rand(n, 1) * 2 + 1)
    thickness = length * 10 ** (-5 * torch.rand(n, 1) - 1)
    slivers = torch.cat([torch.rand(n, 2) * 100, length, thickness, angles], dim=1)
    shifted = slivers.clone()
    shifted[:, :2] += along * length * torch.rand(n, 1) * 0.9
    crossing = slivers.clone()
    crossing[:, 4] += (torch.rand(n) - 0.5) * 4 * thickness[:, 0] / length[:, 0]
    tiny = random_rotated(n, extent=1e-3, largest=1e-3)
    tiny[:, 2:4] = torch.rand(n, 2) * 1e-3 + 1e-5
    other_tiny = tiny.clone()
    other_tiny[:, :2] += torch.rand(n, 2) * 4e-4
    other_tiny[:, 4] += torch.rand(n)
    far = random_rotated(n)
    far[:, :2] = 1e6 + torch.randint(0, 400, (n, 2)) / 16
    other_far = far.clone()
    other_far[:, :2] += torch.randint(-200, 200, (n, 2)) / 16
    other_far[:, 4] += torch.rand(n)
    nested = boxes.clone()
    nested[:, 2:4] *= torch.rand(n, 2)
    squares = torch.cat(
        [torch.randint(0, 8, (n, 2)) * 4.0, torch.full((n, 2), 4.0), torch.full((n, 1), math.pi / 4)], 1
    )
    grid = squares.clone()
    grid[:, :2] += torch.randint(-2, 3, (n, 2)) * 2.0
    touching = boxes.clone()
    touching[:, 0] += boxes[:, 4].cos() * boxes[:, 2]
    touching[:, 1] += boxes[:, 4].sin() * boxes[:, 2]
    turned = boxes.clone()
    turned[:, 4] += torch.randint(-3, 4, (n,)) * (math.pi / 2)
    wide = random_rotated(n, largest=1)
    wide[:, 2:4] *= 10 ** (torch.rand(n, 2) * 6 - 3)
    other_wide = wide[torch.randperm(n)]
    other_wide[:, :2] = wide[:, :2] + torch.randn(n, 2) * wide[:, 2:4] * 0.3
    return {
        "identical": (boxes, boxes.clone()),
        "one rounding error apart": (boxes, next_to(boxes)),
        "slivers one rounding error apart": (slivers, next_to(slivers)),
        "slivers in line": (slivers, shifted),
        "slivers that cross": (slivers, crossing),
        "tiny": (tiny, other_tiny),
        "far away": (far, other_far),
        "nested": (boxes, nested),
        "a grid at 45 degrees": (squares, grid),
        "touching": (boxes, touching),
        "right angles": (boxes, turned),
        "of all sizes": (wide, other_wide),
        "any": (boxes, random_rotated(n)),
    }
