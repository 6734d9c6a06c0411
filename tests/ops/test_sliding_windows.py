import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detops.ops import sliding_windows


def test_by_hand() -> None:
    # A 20 x 30 image (height x width), one square window of 10, steps of 10: two rows of three.
    expected = [[x, y, x + 10, y + 10] for y in (0, 10) for x in (0, 10, 20)]
    boxes = sliding_windows((20, 30), [10], [1.0], 10)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == expected
    # Four times as high as wide: 5 x 20.
    assert sliding_windows((20, 12), [10], [4.0], 4).tolist() == [[0, 0, 5, 20], [4, 0, 9, 20]]


def test_border() -> None:
    arguments = ((10, 10), [8], [1.0], 6)
    assert sliding_windows(*arguments).tolist() == [[0, 0, 8, 8]]
    assert sliding_windows(*arguments, border="clip").tolist() == [
        [0, 0, 8, 8],
        [6, 0, 10, 8],
        [0, 6, 8, 10],
        [6, 6, 10, 10],
    ]
    assert sliding_windows(*arguments, border="keep").tolist() == [
        [0, 0, 8, 8],
        [6, 0, 14, 8],
        [0, 6, 8, 14],
        [6, 6, 14, 14],
    ]


def test_order_and_strides() -> None:
    boxes = sliding_windows((16, 16), [4, 16], [1.0], [8, 16])
    assert boxes.tolist() == [[0, 0, 4, 4], [8, 0, 12, 4], [0, 8, 4, 12], [8, 8, 12, 12], [0, 0, 16, 16]]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
    st.lists(st.floats(1, 40), max_size=3),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=3),
    st.floats(2, 30),
    st.sampled_from(["drop", "clip", "keep"]),
)
def test_matches_loops(
    image_size: tuple[int, int], sizes: list[float], ratios: list[float], stride: float, border: str
) -> None:
    height, width = image_size
    expected = []
    for size in sizes:
        for ratio in ratios:
            h, w = size * math.sqrt(ratio), size / math.sqrt(ratio)
            row = 0
            while row * stride < height:
                column = 0
                while column * stride < width:
                    x, y = column * stride, row * stride
                    if border == "clip":
                        expected.append([x, y, min(x + w, width), min(y + h, height)])
                    elif border == "keep" or (x + w <= width and y + h <= height):
                        expected.append([x, y, x + w, y + h])
                    column += 1
                row += 1
    actual = sliding_windows(image_size, sizes, ratios, stride, border)
    np.testing.assert_allclose(actual, np.array(expected, np.float32).reshape(-1, 4), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((-1, 5), [4]), r"expected image_size of at least 0, got \(-1, 5\)"),
        (((5, 5), [0]), r"expected sizes positive and finite, got \[0\]"),
        (((5, 5), [float("nan")]), "expected sizes positive and finite"),
        (((5, 5), [4], [-1]), r"expected ratios positive and finite, got \[-1\]"),
        (((5, 5), [4], [1], 0), r"expected stride positive and finite, got \[0\]"),
        (((5, 5), [4], [1], float("inf")), "expected stride positive and finite"),
        (((5, 5), [4], [1], [1, 2]), "expected stride as one number or 1, got 2"),
        (((5, 5), [4], [1], 1, "wrap"), "expected border 'drop', 'clip' or 'keep', got 'wrap'"),
    ],
)
def test_says_what_was_wrong(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"sliding_windows: {message}"):
        sliding_windows(*arguments)
