import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import detops
from detops.ops import best_possible_recall, kmeans_anchors

YOLOV5 = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]


def log_normal(n: int, seed: int = 0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return np.exp(random.normal(4, 0.9, (n, 1)) + random.normal(0, 0.4, (n, 2)))


def best_ratios(sizes: Sequence[Sequence[float]], anchors: Sequence[Sequence[float]]) -> list[float]:
    """Of each size, the smallest ratio of sides to the anchor where that is largest."""
    return [max(min(w / a, a / w, h / b, b / h) for a, b in anchors) for w, h in sizes]


def fitness(sizes: NDArray[np.float64], anchors: object, threshold: float = 4.0) -> float:
    anchors = np.asarray(anchors, np.float64)
    ratios = sizes[:, None] / anchors
    best = np.minimum(ratios, 1 / ratios).min(2).max(1)
    return float((best * (best > 1 / threshold)).mean())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("threshold", [1.5, 4.0])
def test_recall_matches_the_definition(count: int, threshold: float) -> None:
    sizes, anchors = log_normal(count).tolist(), log_normal(5, seed=1).tolist()
    expected = sum(ratio > 1 / threshold for ratio in best_ratios(sizes, anchors)) / count
    assert best_possible_recall(sizes, anchors, threshold) == pytest.approx(expected)


def test_recall_by_hand() -> None:
    # Ratios to (10, 10): 1/2; 1/4, which is not above 1/4; 1/5; 1/3.
    sizes = [[20, 10], [40, 10], [10, 2], [30, 30]]
    assert best_possible_recall(sizes, [[10, 10]]) == 0.5
    assert best_possible_recall(torch.tensor(sizes), torch.tensor([[[10, 10]], [[10, 4]]]), 4.001) == 1.0


@pytest.mark.parametrize("metric", ["iou", "ratio"])
def test_clusters_by_hand(metric: str) -> None:
    """Three sizes far apart, several times each, are their own anchors."""
    sizes = np.array([[10, 12], [100, 40], [40, 160]] * 7, np.float32)
    expected = np.array([[10, 12], [100, 40], [40, 160]])
    for seed in range(5):
        np.testing.assert_allclose(kmeans_anchors(sizes, 3, metric, evolve=False, seed=seed), expected, rtol=1e-6)
        np.testing.assert_allclose(kmeans_anchors(sizes, 3, metric, seed=seed), expected, rtol=1e-6)


@pytest.mark.parametrize(("metric", "expected"), [("iou", [25, 50]), ("ratio", [20, math.sqrt(1600)])])
def test_one_anchor_is_the_mean(metric: str, expected: list[float]) -> None:
    sizes = [[10, 20], [40, 80]]
    np.testing.assert_allclose(kmeans_anchors(np.array(sizes), 1, metric, evolve=False), [expected], rtol=1e-6)


@pytest.mark.parametrize("metric", ["iou", "ratio"])
def test_clusters_are_a_fixed_point(metric: str) -> None:
    """Moving every anchor to the mean of the sizes nearest to it changes nothing."""
    sizes = log_normal(400)
    anchors = kmeans_anchors(sizes, 4, metric, evolve=False)

    def likeness(size: NDArray[np.float64], anchor: NDArray[np.float64]) -> float:
        if metric == "ratio":
            return min(*(size / anchor), *(anchor / size))
        common = np.minimum(size, anchor).prod()
        return common / (size.prod() + anchor.prod() - common)

    nearest = [max(range(4), key=lambda a: likeness(size, anchors[a])) for size in sizes]
    for a in range(4):
        members = sizes[[n == a for n in nearest]]
        mean = members.mean(0) if metric == "iou" else np.exp(np.log(members).mean(0))
        np.testing.assert_allclose(anchors[a], mean, rtol=1e-9)


@pytest.mark.parametrize("metric", ["iou", "ratio"])
def test_evolution_never_loses(metric: str) -> None:
    sizes = log_normal(3000)
    clustered = kmeans_anchors(sizes, 9, metric, evolve=False)
    assert np.array_equal(kmeans_anchors(sizes, 9, metric, generations=0), clustered)
    evolved = kmeans_anchors(sizes, 9, metric)
    assert fitness(sizes, evolved) > fitness(sizes, clustered)
    assert fitness(sizes, evolved) > fitness(sizes, YOLOV5)
    for anchors in (clustered, evolved):
        assert (np.diff(anchors.prod(1)) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=40), st.data())
def test_any_sizes(values: list[tuple[float, float]], data: st.DataObject) -> None:
    sizes, k = np.array(values), data.draw(st.integers(1, len(values)))
    metric = data.draw(st.sampled_from(["iou", "ratio"]))
    clustered = kmeans_anchors(sizes, k, metric, evolve=False)
    evolved = kmeans_anchors(sizes, k, metric, generations=30)
    assert evolved.shape == (k, 2)
    assert (clustered >= sizes.min(0) * (1 - 1e-9)).all() and (clustered <= sizes.max(0) * (1 + 1e-9)).all()
    assert fitness(sizes, evolved) >= fitness(sizes, clustered) - 1e-12
    assert fitness(sizes, evolved) == pytest.approx(detops._C.fit_anchors(sizes.T.copy(), evolved, 4.0)[0], abs=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_any_unit(scale: float) -> None:
    sizes = log_normal(500)
    scale = 2.0 ** round(math.log2(scale))  # exact, so that every decision is the same
    np.testing.assert_allclose(kmeans_anchors(sizes * scale, 5), kmeans_anchors(sizes, 5) * scale, rtol=1e-9)


def test_kinds_and_dtypes() -> None:
    sizes = log_normal(200).round() + 1
    expected = kmeans_anchors(sizes, 4)
    assert expected.dtype == np.float64
    for dtype in (np.float32, np.int64, np.uint16):
        anchors = kmeans_anchors(sizes.astype(dtype), 4)
        assert anchors.dtype == np.float32
        np.testing.assert_allclose(anchors, expected, rtol=1e-6)
    tensor = torch.from_numpy(sizes)
    for dtype in (torch.float64, torch.float32, torch.int32):
        anchors = kmeans_anchors(tensor.to(dtype)[:, [1, 0]][:, [1, 0]], 4)
        assert anchors.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(anchors.double(), torch.from_numpy(expected), rtol=1e-6, atol=0)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = tensor.to(dtype)
        assert torch.equal(kmeans_anchors(rounded, 4), kmeans_anchors(rounded.double(), 4).float())
    assert np.array_equal(kmeans_anchors(np.asfortranarray(sizes), 4), expected)


@pytest.mark.threads
def test_deterministic() -> None:
    sizes, before = log_normal(150_000), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(kmeans_anchors(sizes, 6, "ratio", generations=3))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
    few = sizes[:300]
    assert not np.array_equal(kmeans_anchors(few, 6, seed=1), kmeans_anchors(few, 6, seed=2))


def test_instruction_sets_agree() -> None:
    sizes, best = log_normal(1003), detops._C.instruction_set()
    expected = kmeans_anchors(sizes, 7)
    try:
        for name in detops._C.instruction_sets():
            detops._C.set_instruction_set(name)
            assert np.array_equal(kmeans_anchors(sizes, 7), expected)
    finally:
        detops._C.set_instruction_set(best)


@pytest.mark.parametrize("name", ["bccd/BCCD/Annotations", "coco_ccby/instances_a.json"])
def test_real_boxes(name: str) -> None:
    """Better than k-means and than YOLOv5's defaults, at YOLOv5's image size."""
    annotations = pytest.importorskip("detops.benchmarks.annotations", reason="the benchmarks are not installed")
    path = Path(__file__).parents[3] / "shared" / "data" / name
    if not path.exists():
        pytest.skip("the data set is not beside this checkout")
    sizes = []
    for image in annotations.read_boxes(path):
        size = (image.boxes[:, 2:] - image.boxes[:, :2]) * 640 / max(image.height, image.width)
        sizes.append(size[(size > 2).all(1)])
    columns = torch.cat(sizes).double()
    clustered, evolved = kmeans_anchors(columns, 9, evolve=False), kmeans_anchors(columns, 9)
    assert fitness(columns.numpy(), evolved) > fitness(columns.numpy(), clustered)
    assert fitness(columns.numpy(), evolved) > fitness(columns.numpy(), YOLOV5)
    assert best_possible_recall(columns, evolved) >= 0.98


GOOD = np.ones((5, 2))


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        (np.ones((5, 4)), {}, r"expected sizes of shape \(\*, 2\), not empty, got \(5, 4\)"),
        (np.ones((0, 2)), {"k": 1}, "expected sizes of shape"),
        (np.ones(2), {}, "expected sizes of shape"),
        (GOOD.astype(bool), {}, "expected sizes of a floating or integer dtype, got bool"),
        (np.array([[1, 2], [0, 3]]), {}, r"expected sizes from 1e-60 to 1e\+60, got \[0 3\] in row 1"),
        (np.array([[1, 2], [3, -1]]), {}, r"expected sizes .* got \[ 3 -1\] in row 1"),
        (torch.tensor([[float("nan"), 1]]), {"k": 1}, r"expected sizes .* got \[nan  1.\] in row 0"),
        (np.array([[1, np.inf], [1, 1]]), {}, r"expected sizes .* got \[ 1. inf\] in row 0"),
        (GOOD, {"k": 0}, "expected k from 1 to the number of sizes, 5, got 0"),
        (GOOD, {"k": 6}, "expected k from 1 to the number of sizes, 5, got 6"),
        (GOOD, {"metric": "l2"}, "expected metric 'iou' or 'ratio', got 'l2'"),
        (GOOD, {"generations": -1}, "expected generations of at least 0, got -1"),
        (GOOD, {"threshold": 1.0}, "expected threshold above 1, got 1.0"),
        (GOOD, {"threshold": float("nan")}, "expected threshold above 1, got nan"),
    ],
)
def test_says_what_was_wrong(sizes: NDArray[np.float64], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"kmeans_anchors: {message}"):
        kmeans_anchors(sizes, **({"k": 2} | options))


def test_recall_says_what_was_wrong() -> None:
    for sizes, anchors, message in (
        ([[1, 2, 3]], [[1, 2]], "expected sizes of shape"),
        ([[1, 2]], [], "expected anchors of shape"),
        ([[1, 2]], [[1, 0]], "expected anchors from 1e-60"),
        ([[1, 2]], 3, "expected anchors of shape"),
    ):
        with pytest.raises(ValueError, match=f"best_possible_recall: {message}"):
            best_possible_recall(sizes, anchors)
