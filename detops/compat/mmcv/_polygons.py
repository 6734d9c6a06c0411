"""Convex polygons: quadrilaterals (N, 8) as four corners (x, y) in turn, and hulls of nine points (N, 18)."""

import torch
from torch import Tensor

from ._boxes import single
from ._gradients import pull_back

_PAIRS_AT_ONCE = 2**15


@torch.no_grad()
def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Overlap over union (``mode_flag`` 0) or over the first's area (1); all pairs, or row by row if aligned."""
    first, second = _polygons(boxes1), _polygons(boxes2)
    if aligned:
        ious.copy_(_overlaps(first, second, over_first=mode_flag == 1))
    else:
        ious.copy_(_all_overlaps(first, second, over_first=mode_flag == 1).view_as(ious))


@torch.no_grad()
def nms_quadri(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """Indices kept of (N, 8), or (N, 9) with the label at the end; at the threshold itself nothing is dropped."""
    polygons, threshold = _polygons(dets[:, :8]), single(iou_threshold)
    left = scores.sort(stable=True, descending=True).indices
    keep = []
    while len(left) > 0:
        first, left = left[0], left[1:]
        keep.append(first)
        dropped = _overlaps(polygons[first], polygons[left]).float() > threshold
        if multi_label:
            dropped &= dets[left, 8] == dets[first, 8]
        left = left[~dropped]
    return torch.stack(keep) if keep else order.new_empty(0)


@torch.no_grad()
def convex_iou(pointsets: Tensor, polygons: Tensor, ious: Tensor) -> None:
    """IoU of the hull of each of N point sets with each of K quadrilaterals, (N, K)."""
    ious.copy_(_all_overlaps(_hulls(_points(pointsets)), _polygons(polygons)).view_as(ious))


@torch.no_grad()
def convex_giou(pointsets: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Row by row in ``output`` (N, 19): the gradient of the generalised IoU in the nine points, and its value."""
    values: list[Tensor] = []

    def giou(points: Tensor) -> Tensor:
        hulls, quads = _hulls(points), _polygons(polygons)
        whole = _area(_hulls(torch.cat([points, quads], dim=1)))
        shared = _shared_area(hulls, quads)
        union = _area(hulls) + _area(quads) - shared
        values.append(shared / union - (whole - union) / whole)
        return values[0]

    points = _points(pointsets)
    (gradient,) = pull_back(giou, [points], points.new_ones(len(points)))
    output[:, :-1] = gradient.flatten(1)
    output[:, -1] = values[0]


@torch.no_grad()
def min_area_polygons(pointsets: Tensor, polygons: Tensor) -> None:
    """The smallest rectangles, (N, 8), turned by 0 to 90 degrees, round the nine points of each set.

    One of a rectangle's sides lies along a side of the hull, and so through two of the points: all pairs are tried.
    """
    points = _points(pointsets)
    i, j = torch.triu_indices(points.shape[1], points.shape[1], offset=1, device=points.device)
    x, y = (points[:, j] - points[:, i]).unbind(-1)
    angle = torch.atan2(y, x).remainder(torch.pi / 2)  # (N, pairs)
    cos, sin = angle.cos(), angle.sin()
    axes = torch.stack([cos, sin, -sin, cos], dim=-1).unflatten(-1, (2, 2))  # (N, pairs, 2, 2), one axis a row
    turned = axes @ points[:, None].mT  # (N, pairs, 2, points)
    low, high = turned.amin(-1), turned.amax(-1)
    best = (high - low).prod(-1).argmin(1)

    sets = torch.arange(len(points), device=points.device)
    (left, top), (right, bottom) = (bounds[sets, best].unbind(-1) for bounds in (low, high))
    corners = torch.stack([right, top, left, top, left, bottom, right, bottom], dim=-1).unflatten(-1, (4, 2))
    polygons.copy_((corners @ axes[sets, best]).flatten(1))


@torch.no_grad()
def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """1 for points (B, 2) inside quadrilaterals (M, 8), else 0, in ``output`` (B, M); by the parity of crossings."""
    x, y = (at[:, None, None] for at in points.unbind(-1))
    start = polygons.unflatten(-1, (4, 2))
    end = start.roll(1, dims=1)
    across = (start[..., 1] < y) != (end[..., 1] < y)  # (B, M, 4)
    slope = (end[..., 0] - start[..., 0]) / (end[..., 1] - start[..., 1])
    crossing = start[..., 0] + (y - start[..., 1]) * slope
    output.copy_((across & (crossing > x)).sum(-1) % 2)


def _points(flat: Tensor) -> Tensor:
    """(N, 2 * P) as (N, P, 2), float64."""
    return flat.detach().double().unflatten(-1, (-1, 2))


def _polygons(flat: Tensor) -> Tensor:
    """Quadrilaterals (N, 4, 2), float64, all the same way round: with positive area."""
    quads = _points(flat)
    return torch.where(_area(quads)[:, None, None] < 0, quads.flip(1), quads)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _area(polygons: Tensor) -> Tensor:
    around = polygons - polygons[..., :1, :]
    return _cross(around, around.roll(-1, -2)).sum(-1) / 2


def _hulls(points: Tensor) -> Tensor:
    """Convex hulls of point sets (N, P, 2), (N, P, 2): the corners in turn, then the first again as often as needed.

    Gift wrapping (Jarvis), all sets at once; differentiable in the points.
    """
    sets = torch.arange(len(points), device=points.device)
    fixed = points.detach()
    lowest = torch.where(fixed[..., 1] == fixed[..., 1].amin(1, keepdim=True), fixed[..., 0], torch.inf)
    first = lowest.argmin(1)
    corners, current, closed = [first], first, torch.zeros_like(first, dtype=torch.bool)
    for _ in range(points.shape[1] - 1):
        here, following = fixed[sets, current], torch.zeros_like(first)
        for candidate in range(points.shape[1]):
            arm, other = fixed[sets, following] - here, fixed[:, candidate] - here
            turn = _cross(arm, other)
            farther = (turn == 0) & (other.square().sum(-1) > arm.square().sum(-1))
            following = torch.where((turn < 0) | farther, candidate, following)
        closed |= (fixed[sets, following] == fixed[sets, first]).all(-1)
        current = torch.where(closed, first, following)
        corners.append(current)
    return points[sets[:, None], torch.stack(corners, dim=1)]


def _shared_area(subject: Tensor, clip: Tensor) -> Tensor:
    """Area that convex polygons (..., V, 2) and (..., W, 2) share, both of positive area; leading sizes broadcast.

    The first is cut along each side of the second in turn, as Sutherland and Hodgman do; but a corner that is cut off
    moves to the nearest point of the line instead of vanishing, so that all have as many corners: what is then folded
    onto the line has no area.
    """
    origin = clip[..., :1, :]
    subject, clip = subject - origin, clip - origin
    for side in range(clip.shape[-2]):
        start, end = clip[..., side : side + 1, :], clip[..., (side + 1) % clip.shape[-2], None, :]
        edge = end - start
        inside = _cross(edge, subject - start)
        following, inside_following = subject.roll(-1, -2), inside.roll(-1, -1)
        crosses = (inside < 0) != (inside_following < 0)
        part = inside / torch.where(crosses, inside - inside_following, 1.0)
        inwards = torch.stack([-edge[..., 1], edge[..., 0]], dim=-1)
        length = edge.square().sum(-1).clamp(min=torch.finfo(edge.dtype).tiny)
        kept = subject - (inside.clamp(max=0) / length)[..., None] * inwards
        between = torch.where(crosses[..., None], subject + part[..., None] * (following - subject), kept)
        subject = torch.stack([kept, between], dim=-2).flatten(-3, -2)
    return _area(subject).clamp(min=0)


def _overlaps(first: Tensor, second: Tensor, over_first: bool = False) -> Tensor:
    """Pair by pair, (N,); 0 where there is no area."""
    shared = _shared_area(first, second)
    whole = _area(first) if over_first else _area(first) + _area(second) - shared
    return torch.where(whole > 0, shared / whole, 0.0)


def _all_overlaps(first: Tensor, second: Tensor, over_first: bool = False) -> Tensor:
    """All pairs, (N, M)."""
    rows = max(_PAIRS_AT_ONCE // max(len(second), 1), 1)
    parts = [_overlaps(part[:, None], second[None], over_first) for part in first.split(rows)]
    return torch.cat(parts) if parts else first.new_empty(0, len(second))
