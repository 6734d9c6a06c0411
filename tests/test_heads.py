"""What heads are made of: anchors, matching, sampling."""

import pytest
import torch
from torch import Tensor

from detops.heads.anchors import AnchorGenerator, DefaultBoxes, cell_anchors
from detops.heads.layers import rows
from detops.heads.matching import match_default_boxes
from detops.heads.sampling import draw, sample_balanced, sample_libra


def test_cell_anchors_by_hand() -> None:
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors((32,), (0.5, 1.0, 2.0)).tolist() == expected


def test_anchors_as_torchvision() -> None:
    utils = pytest.importorskip("torchvision", reason="compares with torchvision").models.detection
    features = [torch.zeros(2, 8, 12, 20), torch.zeros(2, 8, 6, 10)]
    images = utils.image_list.ImageList(torch.zeros(2, 3, 100, 160), [(100, 160)] * 2)
    sizes, ratios = ((32, 40), (64, 80)), ((0.5, 1.0, 2.0),) * 2
    wanted = utils.anchor_utils.AnchorGenerator(sizes, ratios)(images, features)[0]
    assert AnchorGenerator(sizes)(features, (100, 160)).equal(wanted)


@pytest.mark.parametrize("steps", [None, [8, 16]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_boxes_as_torchvision(steps: list[int] | None, dtype: torch.dtype) -> None:
    utils = pytest.importorskip("torchvision", reason="compares with torchvision").models.detection
    features = [torch.zeros(1, 8, 12, 20, dtype=dtype), torch.zeros(1, 8, 6, 10, dtype=dtype)]
    images = utils.image_list.ImageList(torch.zeros(1, 3, 100, 160), [(100, 160)])
    wanted = utils.anchor_utils.DefaultBoxGenerator([[2], [2, 3]], steps=steps)(images, features)[0]
    torch.testing.assert_close(DefaultBoxes([[2], [2, 3]], steps=steps)(features, (100, 160)), wanted)


def test_default_boxes_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="DefaultBoxes: expected scales of 3 levels, got 2"):
        DefaultBoxes([[2], [2]], scales=[0.1, 0.2])


def test_half_precision_anchors_keep_their_pixels() -> None:
    features = [torch.zeros(1, 1, 2, 400, dtype=torch.float16)]
    anchors = AnchorGenerator([(32,)], [(1.0,)])(features, (16, 3200))
    assert anchors.dtype == torch.float32
    assert anchors[399].tolist() == [3176.0, -16.0, 3208.0, 16.0]


def test_rows_are_in_the_order_of_the_anchors() -> None:
    A, C, H, W = 2, 3, 2, 2
    place = torch.arange(A * C * H * W).reshape(1, A * C, H, W)
    expected = [place[0, a * C : (a + 1) * C, y, x].tolist() for y in range(H) for x in range(W) for a in range(A)]
    assert rows(place, C)[0].tolist() == expected
    assert rows(place.contiguous(memory_format=torch.channels_last), C)[0].tolist() == expected


def test_each_object_has_its_best_default_box() -> None:
    utils = pytest.importorskip("torchvision", reason="compares with torchvision")
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 9], [50, 50, 60, 60], [0, 0, 4, 4]])
    # the last two share their best box: the later one has it
    objects = torch.tensor([[0.0, 0, 10, 10], [52, 52, 90, 90], [51, 51, 80, 80]])
    targets = [{"boxes": objects}, {"boxes": torch.zeros(0, 4)}]
    matches = match_default_boxes(anchors, targets, 0.5)
    assert matches[0].tolist() == [0, 0, 2, -1]
    assert matches[1].tolist() == [-1] * 4
    matcher = utils.models.detection._utils.SSDMatcher(0.5)
    assert matches[0].equal(matcher(utils.ops.box_iou(objects, anchors)))


def test_samples_as_many_as_there_are() -> None:
    labels = torch.tensor([1, 0, -1, 0, 1, 1, 0, 0])
    for positives, negatives, batch, fraction in ((2, 2, 4, 0.5), (3, 4, 100, 0.5), (1, 3, 4, 0.25), (0, 4, 8, 0.0)):
        positive, negative = sample_balanced(labels > 0, labels == 0, batch, fraction)
        assert (len(positive), len(negative)) == (positives, negatives)
        assert (labels[positive] > 0).all() and (labels[negative] == 0).all()
        assert positive.equal(positive.unique()) and negative.equal(negative.unique())


@pytest.mark.parametrize("total", [12, 100])  # by permutation, and by drawing some
def test_draws_each_with_the_same_probability(total: int) -> None:
    candidates = torch.arange(total) * 3
    trials, count = 4000, 4
    drawn = torch.stack([draw(candidates, count) for _ in range(trials)])
    assert (drawn.diff(dim=1) > 0).all()
    frequency = torch.bincount(drawn.flatten() // 3, minlength=total) / trials
    expected = count / total
    assert (frequency - expected).abs().max() < 5 * (expected * (1 - expected) / trials) ** 0.5


def _in_bins(ious: Tensor, bins: int = 3) -> list[int]:
    """How many of each third of the overlaps up to 1."""
    return torch.bincount((ious * bins).long(), minlength=bins).tolist()


def test_negatives_of_each_range_of_overlap() -> None:
    ious = torch.cat([torch.full((200,), 0.1), torch.full((50,), 0.45), torch.full((10,), 0.7), torch.ones(2)])
    matches = torch.cat([torch.full((260,), -1), torch.zeros(2)]).long()
    for _ in range(5):
        positive, negative = sample_libra(matches, ious, 62, 0.25)
        assert positive.tolist() == [260, 261]
        assert negative.equal(negative.unique()) and len(negative) == 60
        low, middle, high = _in_bins(ious[negative])
        assert high == 10  # as many as there are of the 20 wanted; the rest is drawn from all
        assert low >= 20 and middle >= 20


def test_the_first_range_alone_gives_all() -> None:
    positive, negative = sample_libra(torch.full((20,), -1), torch.zeros(20), 8, 0.25)
    assert len(positive) == 0 and len(negative.unique()) == 8
    assert all(len(part) == 0 for part in sample_libra(torch.zeros(0).long(), torch.zeros(0), 8, 0.25))


def test_positives_of_each_object() -> None:
    matches = torch.cat([torch.full((n,), i) for i, n in ((0, 100), (1, 3), (2, 50), (-1, 9), (-2, 7))])
    for _ in range(5):
        positive, negative = sample_libra(matches, torch.rand(169), 40, 0.5)
        assert len(positive.unique()) == len(positive) == 20
        found = torch.bincount(matches[positive], minlength=3).tolist()
        assert found[1] >= 1 and found[0] <= 20 - found[1] - found[2]
        assert abs(found[0] - found[2]) <= 2 * 8  # at most 8 of each at first
        assert negative.tolist() == list(range(153, 162))  # all, and none between the thresholds


def test_as_many_objects_as_wanted_or_fewer_are_all_drawn() -> None:
    matches = torch.tensor([0, -1, 1, -1, 0, -2])
    positive, negative = sample_libra(matches, torch.rand(6), 12, 0.25)
    assert (positive.tolist(), negative.tolist()) == ([0, 2, 4], [1, 3])


def test_few_negatives_for_each_positive() -> None:
    positive, negative = torch.arange(100) < 3, torch.arange(100) >= 3
    for most, expected in ((None, 61), (5.0, 15), (0.5, 1)):
        assert len(sample_balanced(positive, negative, 64, 0.5, most)[1]) == expected
    assert len(sample_balanced(positive & negative, negative, 64, 0.5, 5.0)[1]) == 5  # without any, as for one


def test_anchors_that_are_not_rounded() -> None:
    side = 32 * 2 ** (1 / 3)
    anchor = cell_anchors((side,), (1.0,), rounded=False)
    torch.testing.assert_close(anchor, torch.tensor([[-1.0, -1, 1, 1]]) * side / 2)


def test_anchors_as_far_apart_as_is_said() -> None:
    features = [torch.zeros(1, 1, 2, 3)]  # of 90 by 130 pixels and a stride of 64
    anchors = AnchorGenerator([(32,)], [(1.0,)], steps=[64])(features, (90, 130))
    assert anchors[:, 0].tolist() == [-16, 48, 112] * 2
    assert anchors[:, 1].tolist() == [-16] * 3 + [48] * 3
