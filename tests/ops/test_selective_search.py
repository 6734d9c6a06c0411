import colorsys
import threading
import time

import numpy as np
import pytest
import selective_search_reference as reference
import torch
from numpy.typing import NDArray

import detops
from detops.ops import selective_search

Image = NDArray[np.uint8]


def scene(height: int, width: int, objects: int = 6, noise: int = 12, seed: int = 0) -> Image:
    """Rectangles of random colours, some striped, and noise."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.int64)
    for i in range(objects):
        y, x = random.integers(0, height - 3), random.integers(0, width - 3)
        h, w = random.integers(3, height // 2 + 4), random.integers(3, width // 2 + 4)
        patch = image[y : y + h, x : x + w]
        patch[:] = random.integers(0, 256, 3)
        if i % 2:
            patch[::2] //= 2
    return np.clip(image + random.integers(-noise, noise + 1, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 0.8, 2.0])
@pytest.mark.parametrize(("k", "min_size"), [(0, 0), (30, 5), (100, 20), (1e4, 0), (40, 10_000)])
def test_segmentation_matches_the_paper(sigma: float, k: float, min_size: int) -> None:
    for shape in ((17, 23), (1, 9), (9, 1), (2, 2)):
        image = scene(max(shape[0], 6), max(shape[1], 6))[: shape[0], : shape[1]]
        expected = reference.segment(image, sigma, k, min_size)
        np.testing.assert_array_equal(detops._C.segment(image, sigma, k, min_size), expected)


@pytest.mark.parametrize("similarities", ["CTSF", "TSF", "C", "T", "S", "F", "CF"])
def test_matches_the_paper(similarities: str) -> None:
    """Identical boxes in identical order."""
    image = scene(31, 37, seed=3)
    labels = reference.segment(image, 0.8, 20, 8)
    assert labels.max() > 10
    expected = reference.rank([reference.group(image, labels, similarities)], seed=5)
    boxes, scores = selective_search(
        image,
        color_spaces=["rgb"],
        scales=[20],
        similarities=[similarities],
        min_size=8,
        seed=5,
        return_scores=True,
    )
    assert [tuple(box) for box in boxes.tolist()] == [box for _, box in expected]
    np.testing.assert_allclose(scores, [1 / (1 + value) for value, _ in expected], rtol=1e-12)


def test_strategies_are_all_combinations() -> None:
    image = scene(24, 26, seed=1)
    hierarchies = []
    for k in (15, 40):
        labels = reference.segment(image, 0.8, k, k)
        hierarchies += [reference.group(image, labels, letters) for letters in ("CTSF", "S")]
    expected = reference.rank(hierarchies, seed=0)
    boxes = selective_search(image, color_spaces=["rgb"], scales=[15, 40], similarities=["CTSF", "S"])
    assert [tuple(box) for box in boxes.tolist()] == [box for _, box in expected]


def test_by_hand() -> None:
    """Two squares on a plain ground: they, the ground and all together."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:10, 3:11] = 255
    image[12:19, 20:28, 0] = 255
    boxes = selective_search(image, sigma=0.0, scales=[10], min_size=4, color_spaces=["rgb"])
    assert sorted(boxes.tolist()) == [[0, 0, 30, 20], [3, 2, 11, 10], [20, 12, 28, 19]]


def test_color_spaces() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image[:3] = image[:3, :, :1]  # greys
    image[3, :2] = [[0, 0, 0], [255, 255, 255]]
    converted = {space: detops._C.convert_color(image, space).astype(int) for space in ("rgb", "hsv", "lab", "rgi")}
    assert np.array_equal(converted["rgb"], np.moveaxis(image, 2, 0))
    for y, x in np.ndindex(image.shape[:2]):
        r, g, b = (image[y, x] / 255).tolist()
        hsv = np.array(colorsys.rgb_to_hsv(r, g, b)) * 255
        assert np.abs(converted["hsv"][:, y, x] - hsv).max() <= 0.5 + 1e-9
        total = max(r + g + b, 1e-9)
        rgi = np.array([r / total, g / total, (r + g + b) / 3]) * 255
        assert np.abs(converted["rgi"][:, y, x] - rgi).max() <= 0.5 + 1e-9
    assert np.abs(converted["lab"] - lab(image)).max() <= 1
    assert np.array_equal(detops._C.convert_color(image, "hue")[0], converted["hsv"][0])
    assert np.array_equal(detops._C.convert_color(image, "intensity")[0], converted["rgi"][2])


def lab(image: Image) -> NDArray[np.float64]:
    """CIE L*a*b* under D65, L* stretched to 255, a* and b* moved by 128."""
    v = image / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    t = linear @ (to_xyz / to_xyz.sum(1, keepdims=True)).T
    x, y, z = np.moveaxis(np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack([(116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128])


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_properties(mode: str) -> None:
    image = scene(60, 80, objects=12)
    boxes, scores = selective_search(image, mode, return_scores=True)
    assert boxes.dtype == np.int64 and scores.dtype == np.float64
    assert len(boxes) == len(scores) > 20
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all() and (boxes[:, 2:] <= [80, 60]).all()
    assert [0, 0, 80, 60] in boxes.tolist()
    assert (np.diff(scores) <= 0).all() and scores.min() > 0 and scores.max() <= 1
    again = selective_search(image, mode, return_scores=True)
    assert np.array_equal(again[0], boxes) and np.array_equal(again[1], scores)
    other = selective_search(image, mode, seed=1)
    assert not np.array_equal(other, boxes)
    assert {*map(tuple, other.tolist())} == {*map(tuple, boxes.tolist())}
    assert np.array_equal(selective_search(image, mode, max_boxes=7), boxes[:7])


def test_finds_the_objects() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    objects = [[10, 10, 50, 60], [70, 20, 150, 50], [60, 70, 100, 110], [115, 75, 150, 115]]
    for i, (x1, y1, x2, y2) in enumerate(objects):
        image[y1:y2, x1:x2] = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40)][i]
    boxes = selective_search(image, max_boxes=50)
    overlaps = detops.ops.box_iou(torch.tensor(objects), torch.from_numpy(boxes))
    assert overlaps.amax(1).min() > 0.85


def test_layouts_and_tensors() -> None:
    image = scene(30, 40)
    expected = selective_search(image)
    padded = np.zeros((60, 41, 8), np.uint8)
    view = padded[::2, 1:, 5:2:-1]
    view[:] = image
    read_only = image.copy()
    read_only.setflags(write=False)
    for same in (np.asfortranarray(image), view, read_only):
        assert np.array_equal(selective_search(same), expected)
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    boxes, scores = selective_search(planes.permute(1, 2, 0), return_scores=True)
    assert torch.equal(boxes, torch.from_numpy(expected))
    assert scores.dtype == torch.float64


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_no_pixels(shape: tuple[int, int]) -> None:
    boxes, scores = selective_search(np.zeros((*shape, 3), np.uint8), return_scores=True)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (40, 30)])
@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_constant_image_is_one_region(shape: tuple[int, int], mode: str) -> None:
    image = np.full((*shape, 3), 77, np.uint8)
    assert selective_search(image, mode).tolist() == [[0, 0, shape[1], shape[0]]]


@pytest.mark.parametrize("settings", [{"min_size": 10**30}, {"scales": [1e300]}, {"scales": [1e12], "sigma": 100}])
def test_huge_settings_give_the_whole_image(settings: dict[str, object]) -> None:
    assert selective_search(scene(20, 25), **settings).tolist() == [[0, 0, 25, 20]]


def test_every_pixel_a_region() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (12, 13, 3), dtype=np.uint8)
    boxes = selective_search(image, scales=[0], min_size=0, sigma=0.0, color_spaces=["rgb"])
    assert sum(x2 - x1 == y2 - y1 == 1 for x1, y1, x2, y2 in boxes.tolist()) == 12 * 13


def test_instruction_sets_agree() -> None:
    image, best = scene(50, 61), detops._C.instruction_set()
    expected = selective_search(image, return_scores=True)
    try:
        for name in detops._C.instruction_sets():
            detops._C.set_instruction_set(name)
            for actual, wanted in zip(selective_search(image, return_scores=True), expected, strict=True):
                assert np.array_equal(actual, wanted)
    finally:
        detops._C.set_instruction_set(best)


@pytest.mark.threads
def test_threads_agree() -> None:
    image, before, results = scene(60, 70), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(selective_search(image, "quality"))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_releases_the_interpreter() -> None:
    """Other Python threads run while a large image is searched."""
    image, finished = scene(400, 500, objects=60), threading.Event()

    def search() -> None:
        selective_search(image, "quality")
        finished.set()

    thread = threading.Thread(target=search)
    thread.start()
    ticks = 0
    while not finished.is_set():
        time.sleep(1e-3)
        ticks += 1
    thread.join()
    assert ticks > 5


GOOD = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ([[1]], {}, "expected image as a NumPy array or a tensor, got list"),
        (GOOD.astype(np.float32), {}, "expected image of dtype uint8, got float32"),
        (torch.zeros(4, 5, 3), {}, "expected image of dtype uint8, got float32"),
        (GOOD[..., 0], {}, r"expected image of shape \(\*, \*, 3\), got \(4, 5\)"),
        (GOOD[..., :2], {}, r"expected image of shape \(\*, \*, 3\), got \(4, 5, 2\)"),
        (np.broadcast_to(GOOD[:1, :1], (2**15, 2**14, 3)), {}, "expected image of at most 268435456 pixels"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8, device="meta"), {}, "expected image on the CPU, got meta"),
        (GOOD, {"mode": "best"}, "expected mode 'fast' or 'quality', got 'best'"),
        (GOOD, {"color_spaces": ["xyz"]}, r"expected color_spaces of \('rgb', .*\), got \['xyz'\]"),
        (GOOD, {"color_spaces": []}, "expected color_spaces"),
        (GOOD, {"scales": [-1.0]}, r"expected scales of at least 0, got \[-1.0\]"),
        (GOOD, {"scales": [float("nan")]}, "expected scales"),
        (GOOD, {"scales": []}, "expected scales"),
        (GOOD, {"similarities": ["CX"]}, r"expected similarities as words of the letters C, T, S and F, got \['CX'\]"),
        (GOOD, {"similarities": [""]}, "expected similarities"),
        (GOOD, {"sigma": -0.1}, "expected sigma from 0 to 100, got -0.1"),
        (GOOD, {"sigma": float("nan")}, "expected sigma"),
        (GOOD, {"min_size": -1}, "expected min_size of at least 0, got -1"),
        (GOOD, {"max_boxes": -1}, "expected max_boxes of at least 0, got -1"),
    ],
)
def test_says_what_was_wrong(image: Image, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"selective_search: {message}"):
        selective_search(image, **options)
