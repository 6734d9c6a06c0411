"""The detectors are mmdet's: the same weights give the same features, predictions, losses and boxes."""

import importlib.util

import mmdet_pairs as pairs
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from detops import ops
from detops.detectors import Detector
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
    batch, _ = _batch(ours, (128, 256), (128, 200))
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
    batch, targets = _batch(ours, (128, 256), (128, 200))
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
    batch, targets = _batch(ours, *[(256, 256), (200, 256)][: 2 if two_stages else 1])
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
