"""Selective search in plain Python, slowly: from the papers and the documented roundings."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
Image = NDArray[np.uint8]


def gaussian(sigma: float, one: int) -> dict[int, int]:
    """Taps by offset, whole numbers that add up to `one`."""
    if sigma == 0:
        return {0: one}
    radius = math.ceil(4 * sigma)
    weights = {r: math.exp(-r * r / (2 * sigma * sigma)) for r in range(-radius, radius + 1)}
    taps = {r: round(weight / sum(weights.values()) * one) for r, weight in weights.items() if r}
    return taps | {0: one - sum(taps.values())}


def shifted(plane: NDArray[np.int64], axis: int, offset: int) -> NDArray[np.int64]:
    """plane[i + offset] along an axis, the border repeated."""
    index = np.clip(np.arange(plane.shape[axis]) + offset, 0, plane.shape[axis] - 1)
    return np.take(plane, index, axis)


def convolve(plane: NDArray[np.int64], axis: int, taps: dict[int, int]) -> NDArray[np.int64]:
    return np.sum([tap * shifted(plane, axis, offset) for offset, tap in taps.items()], axis=0)


def segment(image: Image, sigma: float, k: float, min_size: int) -> NDArray[np.int64]:
    """Felzenszwalb and Huttenlocher, 2004, section 4: labels in the order of a scan."""
    height, width = image.shape[:2]
    smooth = []  # in 1/64 grey level
    for channel in np.moveaxis(image.astype(np.int64), 2, 0):
        down = (convolve(channel, 0, gaussian(sigma, 1 << 14)) + 128) // 256
        smooth.append((convolve(down, 1, gaussian(sigma, 1 << 14)) + 8192) // 16384)
    edges = []
    for y in range(height):
        for x in range(width):
            for direction, (dy, dx) in enumerate(((0, 1), (1, -1), (1, 0), (1, 1))):
                if y + dy < height and 0 <= x + dx < width:
                    squares = sum(int(plane[y, x] - plane[y + dy, x + dx]) ** 2 for plane in smooth)
                    weight = math.floor(math.sqrt(squares) + 0.5)
                    edges.append((weight, y, x, direction, (y, x), (y + dy, x + dx)))
    component = {(y, x): {(y, x)} for y in range(height) for x in range(width)}
    internal = {id(members): 0.0 for members in component.values()}

    def join(a: set, b: set, weight: float) -> None:
        a, b = (a, b) if len(a) >= len(b) else (b, a)
        a |= b
        internal[id(a)] = weight
        for pixel in b:
            component[pixel] = a

    edges.sort()
    for weight, *_, p, q in edges:
        a, b = component[p], component[q]
        if a is not b:
            limits = (np.float32(internal[id(c)]) + np.float32(k) / np.float32(len(c)) for c in (a, b))
            if all(np.float32(weight / 64) <= limit for limit in limits):
                join(a, b, weight / 64)
    for *_, p, q in edges:
        a, b = component[p], component[q]
        if a is not b and min(len(a), len(b)) < min_size:
            join(a, b, 0)
    numbers: dict[int, int] = {}
    labels = [numbers.setdefault(id(component[y, x]), len(numbers)) for y in range(height) for x in range(width)]
    return np.array(labels).reshape(height, width)


def histograms(image: Image, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels per colour bin (regions, C, 25) and per texture bin (regions, C, 8, 10)."""
    count = labels.max() + 1
    colors = np.zeros((count, image.shape[2], 25), np.int64)
    textures = np.zeros((count, image.shape[2], 8, 10), np.int64)
    smooth = {r: tap for side in (1, -1) for r, tap in ((0, 102), (side, 62), (2 * side, 14), (3 * side, 1))}
    derive = {r * side: tap * side for side in (1, -1) for r, tap in ((1, 62), (2, 28), (3, 3))}
    for c in range(image.shape[2]):
        plane = image[..., c].astype(np.int64)
        dx, dy = (convolve(convolve(plane, 1 - axis, smooth), axis, derive) for axis in (1, 0))
        along = [dx, (dx + dy) / math.sqrt(2), dy, (dy - dx) / math.sqrt(2)]
        for index, label in np.ndenumerate(labels):
            colors[label, c, plane[index] * 25 // 256] += 1
            for axis, derivative in enumerate(along):
                steepness = derivative[index] / 65536  # grey levels per pixel
                for side, value in enumerate((steepness, -steepness)):
                    textures[label, c, 2 * axis + side, min(9, int(max(value, 0) / 64 * 10))] += 1
    return colors, textures


def group(image: Image, labels: NDArray[np.int64], similarities: str) -> list[Box]:
    """Uijlings et al., 2013, algorithm 1: the boxes of all regions, the given ones first."""
    colors, textures = histograms(image, labels)
    regions = {}
    for label in range(labels.max() + 1):
        ys, xs = np.nonzero(labels == label)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        regions[label] = (len(xs), box, colors[label], textures[label])
    boxes = [region[1] for region in regions.values()]
    pairs = set()
    height, width = labels.shape
    for (y, x), label in np.ndenumerate(labels):
        for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx] != label:
                pairs.add(tuple(sorted((int(label), int(labels[y + dy, x + dx])))))

    def hull(a: Box, b: Box) -> Box:
        return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])

    def likeness(pair: tuple[int, int]) -> float:
        (size_a, box_a, color_a, texture_a), (size_b, box_b, color_b, texture_b) = (regions[i] for i in pair)
        x1, y1, x2, y2 = hull(box_a, box_b)
        channels = image.shape[2]
        return sum(
            {
                "C": int(np.minimum(color_a * size_b, color_b * size_a).sum()) / (size_a * size_b * channels),
                "T": int(np.minimum(texture_a * size_b, texture_b * size_a).sum()) / (8 * size_a * size_b * channels),
                "S": 1 - (size_a + size_b) / labels.size,
                "F": 1 - ((x2 - x1) * (y2 - y1) - size_a - size_b) / labels.size,
            }[letter]
            for letter in similarities
        )

    while pairs:
        best = max(pairs, key=lambda pair: (likeness(pair), -pair[0], -pair[1]))
        a, b = (regions[i] for i in best)
        new = len(boxes)
        regions[new] = (a[0] + b[0], hull(a[1], b[1]), a[2] + b[2], a[3] + b[3])
        boxes.append(regions[new][1])
        renamed = (tuple(sorted(new if i in best else i for i in pair)) for pair in pairs - {best})
        pairs = set(renamed)
    return boxes


def random_number(seed: int, hierarchy: int, place: int) -> float:
    """SplitMix64 as a hash."""

    def mix(x: int) -> int:
        mask = 2**64 - 1
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    return (mix((mix((mix(seed) + hierarchy) % 2**64) + place) % 2**64) >> 11) / 2**53


def rank(hierarchies: Sequence[Sequence[Box]], seed: int) -> list[tuple[float, Box]]:
    """Section 4.3: place in the hierarchy times a random number; nearly repeated boxes behind all others."""
    ranks: dict[Box, float] = {}
    for h, boxes in enumerate(hierarchies):
        for i, box in enumerate(boxes):
            place = len(boxes) - i
            ranks[box] = min(ranks.get(box, math.inf), random_number(seed, h, place) * place)

    def iou(a: Box, b: Box) -> float:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(width, 0) * max(height, 0)
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    first: list[tuple[float, Box]] = []
    behind: list[tuple[float, Box]] = []
    for value, box in sorted((value, box) for box, value in ranks.items()):
        repeated = any(iou(box, other) > 0.8 for _, other in first)
        (behind if repeated else first).append((value, box))
    return first + [(value + first[-1][0], box) for value, box in behind]
