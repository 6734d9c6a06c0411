"""Metrics of classification and segmentation, by hand."""

import math
import pickle

import numpy as np
import pytest
import torch

from detops.evaluation import ClassificationEvaluator, SegmentationEvaluator


def test_classification() -> None:
    first, second = ClassificationEvaluator("abc"), ClassificationEvaluator("abc")
    for truth, scores in ((0, [0.8, 0.1, 0.1]), (0, [0.2, 0.7, 0.1])):
        first.update(truth, torch.tensor(scores))
    second.update(1, torch.tensor([-5.0, 2.0, 1.0]))
    first.merge([pickle.loads(pickle.dumps(second))])
    metrics = first.compute()
    assert metrics.main == ("accuracy", pytest.approx(2 / 3))
    np.testing.assert_array_equal(metrics.recall, [0.5, 1, math.nan])
    np.testing.assert_array_equal(metrics.precision, [1, 0.5, math.nan])
    assert metrics.as_dict()["recall/a"] == 0.5
    assert metrics.table().rows[2] == ("c", "-", "-", "0")


def test_segmentation() -> None:
    evaluator = SegmentationEvaluator(("ground", "cell", "absent"))
    truth = torch.tensor([[0, 0, 1], [1, 1, 255]], dtype=torch.uint8)
    predicted = torch.tensor([[0, 1, 1], [1, 0, 2]])
    evaluator.update(truth, predicted)
    scores = torch.nn.functional.one_hot(predicted, 3).permute(2, 0, 1)
    evaluator.update(truth, scores)
    metrics = evaluator.compute()
    np.testing.assert_allclose(metrics.iou, [1 / 3, 2 / 4, math.nan])
    assert metrics.main == ("mIoU", pytest.approx((1 / 3 + 1 / 2) / 2))
    assert metrics.pixel_accuracy == pytest.approx(3 / 5)
    assert set(metrics.as_dict()) == {"mIoU", "pixel accuracy", "IoU/ground", "IoU/cell", "IoU/absent"}
    assert metrics.table().rows[-1][-1] == "10"


def test_nothing_at_all() -> None:
    assert math.isnan(ClassificationEvaluator("ab").compute().main[1])
    assert math.isnan(SegmentationEvaluator("ab").compute().main[1])


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"scores \(2,\), got \(3,\)"):
        ClassificationEvaluator("ab").update(0, torch.zeros(3))
    with pytest.raises(ValueError, match="labels from 0 to 1, got 2 to 2"):
        ClassificationEvaluator("ab").update(2, torch.zeros(2))
    with pytest.raises(ValueError, match=r"for each pixel, \(2, 2\), got \(2, 3\)"):
        SegmentationEvaluator("ab").update(torch.zeros(2, 2), torch.zeros(2, 3))
