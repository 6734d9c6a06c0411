"""torchvision's detectors while patched: the same detections, losses and gradients, part by part and as a whole."""

from collections.abc import Iterator
from typing import Any

import detector_pairs as pairs
import pytest
import torch
from reached import RecordOperators, boxes, scores
from torch import Tensor, nn

torchvision = pytest.importorskip("torchvision", reason="it is torchvision that is patched")
from torchvision.models import detection  # noqa: E402
from torchvision.models.detection import _utils, anchor_utils, retinanet, roi_heads, rpn  # noqa: E402

from detops.compat.torchvision import patch  # noqa: E402

tv = torchvision.ops

_SMALL = {"min_size": 64, "max_size": 96}
_REGIONS = _SMALL | {"rpn_post_nms_top_n_train": 12, "rpn_post_nms_top_n_test": 60, "box_batch_size_per_image": 32}
_FASTER = _REGIONS | {"box_detections_per_img": 40}
_DENSE = _SMALL | {"score_thresh": 0.008, "detections_per_img": 60}
OPTIONS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": _FASTER,
    "fasterrcnn_resnet50_fpn_v2": _FASTER,
    "fasterrcnn_mobilenet_v3_large_fpn": _FASTER,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _FASTER,
    "maskrcnn_resnet50_fpn": _REGIONS | {"box_detections_per_img": 6},
    "maskrcnn_resnet50_fpn_v2": _REGIONS | {"box_detections_per_img": 6},
    "keypointrcnn_resnet50_fpn": _REGIONS | {"box_detections_per_img": 3},
    "retinanet_resnet50_fpn": _DENSE,
    "retinanet_resnet50_fpn_v2": _DENSE,
    "fcos_resnet50_fpn": _DENSE,
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
}
_TWO_STAGES = {"anchor_grid", "decode_boxes", "remove_small_boxes", "batched_nms"}
_LOSSES = {"encode_boxes", "match_boxes_of_images"}
SIZES = [(90, 110), (80, 64)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The images are small: on a busy machine threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_detector_of_torchvision_is_here() -> None:
    assert set(OPTIONS) == set(torchvision.models.list_models(torchvision.models.detection))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_detections(name: str) -> None:
    model = _model(name).double().eval()
    images = pairs.images(*SIZES)
    with torch.no_grad():
        expected = model(images)
        with patch(), RecordOperators() as record:
            actual = model(images)
        assert record.names >= {f"detops::{op}" for op in _operators(name, training=False)}
        assert not any(operator.startswith("torchvision") for operator in record.names)
        for mine, theirs in zip(actual, expected, strict=True):
            assert len(theirs["boxes"]) >= 3
            torch.testing.assert_close(mine["labels"], theirs["labels"], rtol=0, atol=0)
            torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=0, atol=1e-9)
            for key in theirs.keys() - {"boxes", "labels", "scores"}:
                torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=1e-6)
            torch.testing.assert_close(_ties_in_order(mine), _ties_in_order(theirs), rtol=0, atol=1e-6)

        model.float()
        images = [image.float() for image in images]
        expected = model(images)
        with patch():
            actual = model(images)
    for mine, theirs in zip(actual, expected, strict=True):
        assert abs(len(mine["scores"]) - len(theirs["scores"])) <= 2
        number = min(len(mine["scores"]), len(theirs["scores"]))
        torch.testing.assert_close(mine["scores"][:number], theirs["scores"][:number], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_losses_and_gradients(name: str) -> None:
    model = _model(name).double().train()
    objects = (4, 1) if "keypoint" in name else (4, 0)
    images, targets = pairs.images(*SIZES), [_target(size, n) for size, n in zip(SIZES, objects, strict=True)]
    losses, gradients = _training_step(model, images, targets)
    with patch(), RecordOperators() as record:
        mine, my_gradients = _training_step(model, images, targets)
    assert record.names >= {f"detops::{op}" for op in _operators(name, training=True)}
    assert not any(operator.startswith("torchvision") for operator in record.names)
    torch.testing.assert_close(mine, losses, rtol=1e-9, atol=1e-12)
    for parameter, gradient in gradients.items():
        error = float((my_gradients[parameter] - gradient).norm())
        assert error <= 1e-7 * float(gradient.norm()) + 1e-12, f"{parameter}: off by {error}"

    model.float()
    images = [image.float() for image in images]
    for target in targets:
        target["boxes"] = target["boxes"].float()
    losses, _ = _training_step(model, images, targets)
    with patch():
        mine, _ = _training_step(model, images, targets)
    torch.testing.assert_close(mine, losses, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_autocast(name: str) -> None:
    model = _model(name).train()
    images, targets = pairs.images(*SIZES, dtype=torch.float32), [_target(size, 3) for size in SIZES]
    for target in targets:
        target["boxes"] = target["boxes"].float()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = _training_step(model, images, targets)
        with patch(), RecordOperators() as record:
            mine, _ = _training_step(model, images, targets)
    torch.testing.assert_close(mine, losses, rtol=3e-2, atol=1e-3)
    assert record.names >= {f"detops::{op}" for op in _operators(name, training=True)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:RCNN always returns:UserWarning")
def test_torchscript_compiles_the_original_of_every_part() -> None:
    model = _model("fasterrcnn_mobilenet_v3_large_320_fpn").eval()
    images = pairs.images(*SIZES, dtype=torch.float32)
    with torch.no_grad():
        expected = model(images)
        with patch():
            scripted = torch.jit.script(model)
        torch.testing.assert_close(scripted(images)[1], expected, rtol=0, atol=0)


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=pairs.CLASSES, **OPTIONS[name])
    pairs.disturb(model)
    return model


def _operators(name: str, training: bool) -> set[str]:
    """What a detector at least runs on."""
    if "rcnn" in name:
        return (
            _TWO_STAGES | (_LOSSES if training else set()) | ({"roi_align"} if training and "mask" in name else set())
        )
    if not training:
        return {"batched_nms"} | ({"anchor_grid"} if "ssd" not in name else set())
    if "ssd" in name:
        return {"box_iou", "encode_boxes"}
    if "fcos" in name:
        return {"anchor_grid", "sigmoid_focal_loss", "generalized_box_iou_loss"}
    of_boxes = "generalized_box_iou_loss" if name.endswith("v2") else "encode_boxes"
    return {"anchor_grid", "match_boxes_of_images", "sigmoid_focal_loss_from_labels", of_boxes}


def _target(size: tuple[int, int], objects: int) -> dict[str, Tensor]:
    target = pairs.target(size, objects)
    number, (height, width) = torch.Generator().manual_seed(5), size
    target["masks"] = (torch.rand(objects, *size, generator=number) > 0.5).to(torch.uint8)
    places = torch.rand(objects, 17, 2, generator=number) * torch.tensor([width, height])
    target["keypoints"] = torch.cat([places, torch.ones(objects, 17, 1)], dim=2)
    return target


def _training_step(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses, and gradients behind the backbone, with the same draws of samples; statistics of batches are not kept."""
    torch.manual_seed(3)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    parameters = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("backbone.body", "backbone.features", "backbone.extra")))
        if parameter.requires_grad:
            parameters[name] = parameter
    losses = model(images, targets)
    gradients = torch.autograd.grad(sum(losses.values()), list(parameters.values()), allow_unused=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(statistics[name])
    found = {name: gradient for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return {key: loss.detach() for key, loss in losses.items()}, found


def _ties_in_order(detections: dict[str, Tensor]) -> list[tuple[float, int, list[float]]]:
    """Equal scores of a class, which torchvision leaves in any order, in the order of their boxes."""
    rows = zip(*(detections[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    return sorted((round(score, 9), label, [round(x, 6) for x in box]) for score, label, box in rows)


def test_coders_and_anchors() -> None:
    coder = _utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    anchors = anchor_utils.AnchorGenerator(((16, 32), (48, 64)), ((0.5, 1.0), (1.0, 2.0)))
    for dtype in (torch.float64, torch.float32, torch.float16):
        found, codes = boxes(6).to(dtype), (50 * scores(6 * 12).view(6, 12) - 25).to(dtype)
        places = detection.image_list.ImageList(torch.zeros(2, 3, 50, 70), [(50, 70), (40, 60)])
        features = [torch.zeros(2, 1, 7, 9, dtype=dtype), torch.zeros(2, 1, 3, 4, dtype=dtype)]

        def results(
            found: Tensor = found, codes: Tensor = codes, places: Any = places, features: Any = features
        ) -> Any:
            return (
                coder.encode_single(found, found.roll(1, 0)),
                coder.decode(codes, [found[:2], found[2:]]),
                coder.decode_single(codes[:0], found[:0]),
                *anchors(places, features),
            )

        expected = results()
        rtol, atol = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-5, 1e-4), torch.float16: (4e-3, 0.5)}[dtype]
        with patch(), RecordOperators() as record:
            actual = results()
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
        assert torch.equal(actual[3], expected[3])
        assert actual[3].data_ptr() != actual[4].data_ptr()
        assert record.names == {f"detops::{op}" for op in ("encode_boxes", "decode_boxes", "anchor_grid")}


class _Mine(_utils.Matcher):
    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        return super().__call__(match_quality_matrix * 0.5)


@pytest.mark.parametrize("matcher", [_utils.Matcher(0.5, 0.3, True), _utils.Matcher(0.4, 0.4), _Mine(0.5, 0.1)])
def test_assignments(matcher: Any) -> None:
    targets = [{"boxes": b, "labels": torch.arange(1, len(b) + 1)} for b in (boxes(5), boxes(0), boxes(1, seed=6))]
    places = [boxes(200, seed=7), boxes(150, seed=8), boxes(90, seed=9)]
    regions = rpn.RegionProposalNetwork(None, None, 0.7, 0.3, 8, 0.5, {}, {}, 0.7)
    heads = roi_heads.RoIHeads(None, None, None, 0.5, 0.5, 8, 0.5, None, 0.1, 0.5, 8)
    regions.proposal_matcher = heads.proposal_matcher = matcher
    gt_boxes, gt_labels = ([target[key] for target in targets] for key in ("boxes", "labels"))

    def results() -> Any:
        return (
            regions.assign_targets_to_anchors(places, targets),
            heads.assign_targets_to_proposals(places, gt_boxes, gt_labels),
        )

    expected = results()
    with patch(), RecordOperators() as record:
        torch.testing.assert_close(results(), expected, rtol=0, atol=0)
    own = type(matcher) is _utils.Matcher
    assert record.names == {"detops::match_boxes_of_images" if own else "detops::box_iou"}


def test_retinanet_keeps_what_others_put_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    head = retinanet.RetinaNetClassificationHead(8, 1, 5)
    outputs = {"cls_logits": scores(2 * 40 * 5).view(2, 40, 5) - 0.5}
    targets = [{"labels": torch.tensor([4, 0])}, {"labels": torch.tensor([], dtype=torch.int64)}]
    matches = [torch.arange(40) % 4 - 2, torch.full((40,), -1)]
    expected = head.compute_loss(targets, outputs, matches)
    with patch():
        torch.testing.assert_close(head.compute_loss(targets, outputs, matches), expected, rtol=1e-9, atol=0)
        with pytest.raises(IndexError):
            head.compute_loss([{"labels": torch.tensor([5, 0])}, targets[1]], outputs, matches)
        monkeypatch.setattr(retinanet, "sigmoid_focal_loss", lambda *args, reduction: torch.tensor(7.0))
        few = targets[:1], {"cls_logits": outputs["cls_logits"][:1]}, matches[:1]
        assert float(head.compute_loss(*few)) == pytest.approx(7 / 20)


def test_pyramids_with_a_gap_are_torchvisions() -> None:
    pyramid = tv.MultiScaleRoIAlign(["a", "b"], 3, 2)
    maps = scores(2 * 3 * 12 * 14).view(2, 3, 12, 14)
    arguments = {"a": maps, "b": maps[..., ::4, ::4]}, [boxes(20, side=400), boxes(9, side=400)], [(96, 112)] * 2
    expected = pyramid(*arguments)
    with patch(), RecordOperators() as record:
        torch.testing.assert_close(pyramid(*arguments), expected, rtol=1e-9, atol=1e-9)
    assert record.names == {"detops::roi_align"}
