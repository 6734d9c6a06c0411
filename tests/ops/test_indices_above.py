import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detops.ops._indices_above import indices_above

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_by_hand(device: torch.device, dtype: torch.dtype) -> None:
    values = torch.tensor([0.5, 0.25, math.nan, math.inf, -math.inf, 0.75, 0.5], dtype=dtype)
    assert indices_above(values, 0.5).tolist() == [3, 5]
    assert indices_above(values, 0.49).tolist() == [0, 3, 5, 6]
    assert indices_above(values, -math.inf).tolist() == [0, 1, 3, 5, 6]
    for nothing in (math.inf, math.nan):
        assert indices_above(values, nothing).tolist() == []
    assert indices_above(values[:0], 0).tolist() == []


# Around vectors, words of bits, pieces and blocks.
@pytest.mark.parametrize("n", [1, 15, 16, 31, 32, 33, 255, 256, 257, 2047, 2048, 2049, 70_000])
def test_any_number_of_values(device: torch.device, n: int) -> None:
    for dtype in FLOATING:
        values = torch.randn(n).to(dtype)
        for least in (-9.0, 0.0, 1.0, 3.5, 9.0):
            assert indices_above(values, least).equal((values > least).nonzero()[:, 0])
        strided = values.repeat_interleave(3)[::3]
        assert indices_above(strided, 0.5).equal(indices_above(values, 0.5))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32), max_size=300), st.floats(width=32))
def test_any_values(values: list[float], least: float) -> None:
    assert indices_above(torch.tensor(values), least).tolist() == [i for i, v in enumerate(values) if v > least]


@pytest.mark.threads
def test_threads_do_not_change_the_result() -> None:
    values = torch.randn(1_000_000)
    assert indices_above(values, 1.5).equal((values > 1.5).nonzero()[:, 0])


def test_registration() -> None:
    torch.library.opcheck(torch.ops.detops.indices_above.default, (torch.rand(40), 0.5))


def test_says_what_is_wrong() -> None:
    with pytest.raises(RuntimeError, match=r"^indices_above: expected values of shape \(\*\), got \(2, 3\)"):
        indices_above(torch.rand(2, 3), 0)
    with pytest.raises(RuntimeError, match=r"^indices_above: expected values of dtype float32, .*, got int64"):
        indices_above(torch.arange(3), 0)
