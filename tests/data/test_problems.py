"""What is wrong with data, collected or raised; and data sets by name."""

import pickle
import sys

import pytest

from detops import data
from detops._errors import UserError
from detops.data import Problem, Problems, ReadError


def test_problems_are_collected_once_and_in_order() -> None:
    problems = Problems()
    assert problems.summary() == ""
    for number in (2, 1, 2):
        problems.report(f"file:{number}", "broken")
    assert list(problems) == [Problem("file:2", "broken"), Problem("file:1", "broken")]
    assert (len(problems), problems[-1].where, problems[:1]) == (2, "file:1", [Problem("file:2", "broken")])
    assert problems.summary() == "2 problems in the data:\n  file:2: broken\n  file:1: broken"
    assert problems.summary(1) == "2 problems in the data:\n  file:2: broken\n  and 1 more"


def test_the_first_problem_is_an_error_if_strict() -> None:
    with pytest.raises(UserError, match=r"^file:2: broken$"):
        Problems(strict=True).report("file:2", "broken")


def test_a_read_error_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ReadError("file", "broken")))
    assert (str(error), error.problem) == ("file: broken", Problem("file", "broken"))


@pytest.mark.parametrize(
    ("spec", "task", "message"),
    [
        ("cocoa:x", "detect", "expected data as digits, coco:DIR or coco:IMAGES,ANNOTATIONS.json, voc:DIR to detect"),
        ("folder:x", "detect", "got 'folder:x'"),
        ("voc:", "detect", "got 'voc:'"),
        ("coco:x", "segment", "expected data as digits, folder:DIR to segment, got 'coco:x'"),
        ("digits", "paint", "expected task of detect, classify, segment, got 'paint'"),
    ],
)
def test_specs_that_are_none(spec: str, task: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        data.open(spec, "train", task=task)
    assert message in str(error.value)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from detops.data import digits

    digits._sources.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r'data sets need sklearn\.datasets: pip install "detops\[training\]"'):
        data.open("digits", "train")
