"""The detectors are mmdet's: the same weights give the same features, predictions, losses and boxes."""

import importlib.util

import mmdet_pairs as pairs
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from detops import ops
from detops.compat import mmcv as compat
from detops.detectors import Detector
from detops.heads.sampling import sample_libra
from detops.images import ImageBatch, unpad

pytestmark = [
    pytest.mark.peers,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of packages from before this torch
    pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="needs mmdet: pip install '.[peers]'"),
]
Pair = tuple[nn.Module, Detector]


@pytest.fixture(scope="module", params=pairs.CONFIGURATIONS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return pairs.pair(request.param)


def _batch(ours: Detector, *sizes: tuple[int, int]) -> tuple[ImageBatch, list[dict[str, Tensor]]]:
    """Images and targets of two objects each, which overlap with no other but with some anchor."""
    generator = torch.Generator().manual_seed(1)
    batch = ours.transform([torch.rand(3, *size, generator=generator) for size in sizes])
    first = ours.head.labels.start
    boxes = torch.tensor([[3.0, 4, 60, 70], [64, 50, 120, 115]])
    return batch, [{"boxes": boxes + i, "labels": torch.tensor([0, 5]) + first} for i in range(len(sizes))]


def test_outputs_of_the_network(pair: Pair) -> None:
    theirs, ours = (model.eval() for model in pair)
    batch, _ = _batch(ours, (128, 224), (120, 200))
    with torch.no_grad():
        wanted, found = theirs.extract_feat(batch.tensors), ours.features(batch)
        _assert_all_close(found, wanted)
        if hasattr(theirs, "rpn_head"):
            _assert_all_close(ours.head.rpn(found), theirs.rpn_head(wanted))
            _assert_same_regions(theirs, ours, found)
        else:
            _assert_all_close(ours.head(found), theirs.bbox_head(wanted))


def _assert_same_regions(theirs: nn.Module, ours: Detector, features: list[Tensor]) -> None:
    boxes = torch.tensor([[3.0, 4, 40, 50], [0, 0, 128, 128], [20, 15, 24, 18], [100.5, 7, 200, 120]])
    wanted = theirs.roi_head._bbox_forward(features, torch.cat([torch.zeros(4, 1), boxes], dim=1))
    found = ours.head.roi(features, [boxes])
    assert_close(found.logits.roll(-1, dims=1), wanted["cls_score"], rtol=1e-4, atol=1e-5)
    assert_close(found.deltas.flatten(1), wanted["bbox_pred"], rtol=1e-4, atol=1e-5)


def test_detections(pair: Pair) -> None:
    theirs, ours = (model.eval() for model in pair)
    batch, targets = _batch(ours, (128, 224), (120, 200))
    first = ours.head.labels.start
    with torch.no_grad():
        found = unpad(ours.head.detect(ours.features(batch), batch))
        wanted = theirs.predict(batch.tensors, pairs.samples(batch, targets, first), rescale=False)
    for mine, sample in zip(found, wanted, strict=True):
        instances = sample.pred_instances
        expected = {"boxes": instances.bboxes, "labels": instances.labels + first, "scores": instances.scores}
        assert len(expected["boxes"]) == len(mine["boxes"]) == 100
        wide = (mine["boxes"][:, 2:] > mine["boxes"][:, :2]).all(dim=1)  # mmdet drops what lies outside of the image
        assert wide.sum() > 50
        _assert_found({key: values[wide] for key, values in mine.items()}, expected)
        _assert_found(expected, mine)


def test_losses(pair: Pair) -> None:
    theirs, ours = (model.train() for model in pair)
    ours.backbone.eval()  # as theirs
    two_stages = hasattr(theirs, "rpn_head")
    if not two_stages:
        theirs.backbone.eval()
    batch, targets = _batch(ours, *[(224, 256), (200, 256)][: 2 if two_stages else 1])
    samples = pairs.samples(batch, targets, ours.head.labels.start)
    with torch.no_grad():
        losses = ours.head.losses(ours.features(batch), batch, targets)
        wanted = {key: _total(value) for key, value in theirs.loss(batch.tensors, samples).items()}
    names = {"classification": "loss_cls", "bbox_regression": "loss_bbox"}
    if two_stages:
        names = {
            "loss_objectness": "loss_rpn_cls",
            "loss_rpn_box_reg": "loss_rpn_bbox",
            "loss_classifier": "loss_cls",
            "loss_box_reg": "loss_bbox",
        }
    assert set(losses) == set(names)
    for mine, other in names.items():
        assert losses[mine] > 0
        assert_close(losses[mine], wanted[other], rtol=1e-4, atol=1e-6, msg=lambda text, mine=mine: f"{mine}: {text}")


def _total(loss: Tensor | list[Tensor]) -> Tensor:
    return torch.stack(loss).sum() if isinstance(loss, list) else loss


def _assert_all_close(found: object, wanted: object) -> None:
    if isinstance(wanted, Tensor):
        assert wanted.std() > 1e-6
        assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        return
    for mine, other in zip(found, wanted, strict=True):
        _assert_all_close(mine, other)


def _assert_found(wanted: dict[str, Tensor], among: dict[str, Tensor]) -> None:
    """Each detection stands among the others, up to near-ties: at the end of the list, and of boxes that overlap."""
    least = float(among["scores"].min())
    for box, label, score in zip(wanted["boxes"], wanted["labels"], wanted["scores"], strict=True):
        alike = ((among["scores"] - score).abs() < 1e-4) & (among["labels"] == label)
        same = alike & ((among["boxes"] - box).abs().amax(dim=1) < 1e-2)
        rival = alike & (ops.box_iou(among["boxes"], box[None])[:, 0] > 0.3)
        assert same.any() or rival.any() or score < least + 1e-4, (box, label, score)


def test_samples_as_many_of_each_kind() -> None:
    """On average: of each object and of each range of overlap, for numbers where all rules of the samplers come in."""
    assert compat.install()
    from mmdet.models.task_modules import AssignResult, InstanceBalancedPosSampler, IoUBalancedNegSampler

    objects = torch.tensor([-1] * 300 + [0] * 60 + [1] * 3 + [2] * 20)
    overlaps = torch.tensor([0.1] * 200 + [0.45] * 90 + [0.7] * 10 + [0.8] * 82 + [1.0])
    kinds = torch.tensor([0] * 200 + [1] * 90 + [2] * 10 + [3] * 60 + [4] * 3 + [5] * 20)
    assigned = AssignResult(3, objects + 1, overlaps, torch.zeros_like(objects))
    positives, negatives = (kind(80, 0.25) for kind in (InstanceBalancedPosSampler, IoUBalancedNegSampler))
    trials = 60
    torch.manual_seed(0)
    found, wanted = torch.zeros(2, 6)
    for _ in range(trials):
        found += kinds[torch.cat(sample_libra(objects, overlaps, 80, 0.25))].bincount(minlength=6) / trials
        theirs = [positives._sample_pos(assigned, 20), negatives._sample_neg(assigned, 60)]
        wanted += kinds[torch.cat(theirs)].bincount(minlength=6) / trials
    assert found.sum() == pytest.approx(80) and wanted[3:].sum() == pytest.approx(20)
    assert_close(found, wanted, rtol=0, atol=1.5)
