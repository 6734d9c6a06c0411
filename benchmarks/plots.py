"""Plots as inline SVG. Colours are the page's style classes, so that they follow its light or dark theme."""

import math
from collections.abc import Callable, Sequence
from html import escape

from .results import Row, geometric_mean
from .table import digits, mark, seconds

WIDTH = 920
LABELS = 330  # room for the names on the left
Point = tuple[float, float]


class Scale:
    """Maps values to pixels, logarithmically unless ``linear``."""

    def __init__(self, low: float, high: float, start: float, end: float, linear: bool = False) -> None:
        self.transform: Callable[[float], float] = float if linear else math.log10
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        low, high = self.transform(self.low), self.transform(self.high)
        share = (self.transform(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten within the scale, with threes where there are few."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1,), (1, 3)):
            found = [step * 10.0**e for e in exponents for step in steps]
            found = [tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001]
            if len(found) >= 3:
                break
        return found


def time_bars(rows: Sequence[Row]) -> str:
    """One operator's cases: a bar of time for each side, logarithmic, with the ratio at the right."""
    rows = [row for row in rows if row.ours]
    times = [timing.median for row in rows for timing in row.timings.values()]
    decade = 10.0 ** math.floor(math.log10(min(times) / 1.2))
    scale = Scale(decade, max(max(times) * 1.05, decade * 100), LABELS, WIDTH - 150)
    parts, y = [], 4.0
    for row in rows:
        lines = wrapped(row.case, 48)
        height = max(15 * len(row.timings), 14 * len(lines))
        middle = y + height / 2
        parts += [text(0, middle + 4 + 14 * (i - (len(lines) - 1) / 2), line) for i, line in enumerate(lines)]
        top = middle - 7.5 * len(row.timings)
        for index, (side, timing) in enumerate(row.timings.items()):
            style = side_style(index)
            length = scale(timing.median) - LABELS
            title = f"{side}: {seconds(timing.median)}, quartiles {seconds(timing.low)} to {seconds(timing.high)}"
            parts.append(
                f'<rect class="{style}" x="{LABELS}" y="{top:.1f}" width="{length:.1f}" height="12" rx="2">'
                f"<title>{escape(title)}</title></rect>"
            )
            named = seconds(timing.median) + (f"  {side}" if index > 1 else "")
            parts.append(text(LABELS + length + 6, top + 10, named, "small"))
            top += 15
        if row.ratio:
            style = "ratio" if row.ratio >= 1 else "ratio slow"
            parts.append(text(WIDTH, middle + 5, mark(row.ratio), style, "end"))
        y += height + 12
    return svg(WIDTH, y + 18, [*grid(scale, scale.ticks(), 0, y, tick_time), *parts])


def ratio_overview(groups: dict[str, list[Row]]) -> str:
    """All operators: a dot for the ratio of each case, a bar at their geometric mean."""
    ratios = [row.ratio for rows in groups.values() for row in rows if row.ratio]
    scale = Scale(min(0.7, *ratios) / 1.1, max(12, *ratios) * 1.15, 210, WIDTH - 80)
    parts, y = [], 6.0
    for op, rows in groups.items():
        mean = geometric_mean(rows)
        if mean is None:
            continue
        values = [row.ratio for row in rows if row.ratio]
        parts.append(text(0, y + 14, op, "name"))
        ends = scale(min(values)), scale(max(values))
        parts.append(f'<line class="range" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y + 10:.1f}" y2="{y + 10:.1f}"/>')
        for row in rows:
            if row.ratio:
                title = f"{row.case}: {mark(row.ratio)}"
                style = "ours" if row.ratio >= 1 else "slow"
                parts.append(dot(scale(row.ratio), y + 10, style, title))
        x = scale(mean)
        parts.append(f'<rect class="mean" x="{x - 1.5:.1f}" y="{y:.1f}" width="3" height="20" rx="1.5"/>')
        parts.append(text(WIDTH, y + 15, mark(mean), "ratio", "end"))
        y += 28
    one = scale(1)
    base = f'<line class="base" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{y:.1f}"/>'
    return svg(WIDTH, y + 18, [*grid(scale, scale.ticks(), 0, y, lambda v: f"{v:g}×"), base, *parts])


def size_lines(rows: Sequence[Row], width: int = 450, height: int = 300) -> str:
    """One series: time against size for each side, both logarithmic."""
    rows = sorted((row for row in rows if row.ours), key=lambda row: row.size)
    times = [timing.median for row in rows for timing in row.timings.values()]
    x = Scale(rows[0].size, rows[-1].size, 62, width - 96)
    y = Scale(min(times) / 1.4, max(times) * 1.4, height - 34, 12)
    parts = grid(x, [row.size for row in rows], 12, height - 34, lambda v: f"{v:,.0f}")
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="62" x2="{width - 96}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(text(56, y(tick) + 4, tick_time(tick), "small", "end"))
    ends: list[tuple[float, str, str]] = []
    for index, side in enumerate(rows[0].timings):
        style = side_style(index)
        points = [(x(row.size), y(row.timings[side].median)) for row in rows if side in row.timings]
        parts.append(path(points, style))
        parts += [dot(px, py, style, f"{side}, {row.size:,}") for (px, py), row in zip(points, rows, strict=False)]
        ends.append((points[-1][1], side, style))
    parts += [text(width - 86, end + 4, side, f"small {style}-text") for end, side, style in apart(ends, 14)]
    return svg(width, height, parts)


def thread_gain(groups: dict[str, list[tuple[Row, Row]]], threads: int) -> str:
    """By operator, how many times faster each case is with more threads; detops above, main peer below."""
    gains = [gain for pairs in groups.values() for pair in pairs for gain in gains_of(*pair)]
    scale = Scale(0, max(threads, *gains) * 1.05, 210, WIDTH - 80, linear=True)
    ticks = [float(t) for t in range(threads + 1)]
    parts, y = grid(scale, ticks, 0, 34 * len(groups) + 6, lambda v: f"{v:g}×"), 6.0
    for op, pairs in groups.items():
        parts.append(text(0, y + 18, op, "name"))
        for few, many in pairs:
            for index, gain in enumerate(gains_of(few, many)):
                title = f"{few.case}: {digits(gain)}×"
                parts.append(dot(scale(gain), y + 8 + 12 * index, side_style(index), title))
        y += 34
    one = scale(1)
    parts.append(f'<line class="base" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{y:.1f}"/>')
    return svg(WIDTH, y + 18, parts)


def gains_of(few: Row, many: Row) -> list[float]:
    """Speed-up of detops and of the main peer between two numbers of threads."""
    sides = [side for side in ("detops", few.peer) if side in few.timings and side in many.timings]
    return [few.timings[side].median / many.timings[side].median for side in sides]


def side_style(index: int) -> str:
    """The class that colours the n-th side: detops, its main peer, other peers."""
    return ("ours", "peer", "other")[min(index, 2)]


def grid(scale: Scale, ticks: Sequence[float], top: float, bottom: float, label: Callable[[float], str]) -> list[str]:
    """Vertical lines at the ticks, labelled below; labels that would touch the one before are left out."""
    parts, free = [], -math.inf
    for tick in ticks:
        x, name = scale(tick), label(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        if x - 4 * len(name) > free:
            parts.append(text(x, bottom + 14, name, "small", "middle"))
            free = x + 4 * len(name)
    return parts


def tick_time(value: float) -> str:
    """A round time without decimals: "10 µs"."""
    number, unit = seconds(value * 1.0001).split()
    return f"{float(number):g} {unit}"


def apart(ends: list[tuple[float, str, str]], distance: float) -> list[tuple[float, str, str]]:
    """Moves labels down until none overlaps the one above it."""
    moved: list[tuple[float, str, str]] = []
    for y, name, style in sorted(ends):
        moved.append((max(y, moved[-1][0] + distance) if moved else y, name, style))
    return moved


def wrapped(name: str, length: int) -> list[str]:
    """Splits a name at a space into lines of at most ``length`` characters, where it can."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= length:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def path(points: Sequence[Point], style: str) -> str:
    """A line through points."""
    return f'<polyline class="line {style}-line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def dot(x: float, y: float, style: str, title: str) -> str:
    """A point that says what it is when hovered."""
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(title)}</title></circle>'


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> str:
    """Text with its baseline at y."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    """The picture; it shrinks with the page but never grows."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px"'
    return f'<svg {size} role="img" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
