"""The functions of detectron2._C, called as detectron2/layers calls them; detectron2 itself is not needed."""

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from rotated import exact_pairs
from samples import gradients
from torch import Tensor
from torch.testing import assert_close

from detops import ops
from detops.compat import detectron2
from detops.compat.detectron2 import _functions as C


def turned(n: int) -> Tensor:
    """Boxes (n, 5), the angle in degrees, counter-clockwise."""
    return torch.cat([torch.rand(n, 4) * 20 + 1, torch.rand(n, 1) * 720 - 360], dim=1)


def in_radians(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :-1], boxes[:, -1:] * math.pi / 180], dim=1)


@pytest.mark.parametrize("registered", [False, True])
def test_rotated_boxes(place: torch.device, registered: bool) -> None:
    functions = torch.ops.detectron2 if registered else C
    first, second, scores = turned(30), turned(20), torch.randperm(30) / 30
    pairs = [(in_radians(first[i : i + 1]), in_radians(second[i : i + 1])) for i in range(20)]
    ious = functions.box_iou_rotated(first.to(place), second.to(place)).cpu()
    exact = torch.cat([exact_pairs(a, b, clockwise=False) for a, b in pairs])
    assert_close(ious.diagonal().double(), exact, atol=1e-5, rtol=0)
    keep: list[int] = []
    overlaps = functions.box_iou_rotated(first.to(place), first.to(place)).cpu()
    for i in scores.argsort(descending=True).tolist():
        if (overlaps[i, keep] <= 0.3).all():
            keep.append(i)
    assert functions.nms_rotated(first.to(place), scores.to(place), 0.3).tolist() == keep and len(keep) < 30


@pytest.mark.parametrize("registered", [False, True])
def test_roi_align_rotated(place: torch.device, registered: bool) -> None:
    functions = torch.ops.detectron2 if registered else C
    maps, boxes = torch.randn(2, 3, 8, 9, dtype=torch.float64), turned(4).double()
    rois = torch.cat([torch.tensor([[0.0], [1], [1], [0]]).double(), boxes], dim=1)

    def reference(maps: Tensor) -> Tensor:
        return ops.roi_align_rotated(maps, in_radians(rois), (2, 3), 0.5, 2, aligned=True, clockwise=False)

    found = functions.roi_align_rotated_forward(maps.to(place), rois.to(place), 0.5, 2, 3, 2)
    assert_close(found.cpu(), reference(maps))
    grad = torch.randn(4, 3, 2, 3, dtype=torch.float64)
    found = functions.roi_align_rotated_backward(grad.to(place), rois.to(place), 0.5, 2, 3, 2, 3, 8, 9, 2)
    assert_close(found.cpu(), gradients(reference, [maps], grad)[0])


def test_straight_regions_are_those_of_roi_align(place: torch.device) -> None:
    maps = torch.randn(1, 2, 8, 9, device=place)
    rois = torch.tensor([[0, 8.0, 7, 6, 4, 0], [0, 8, 7, 4, 6, 90], [0, 8, 7, 6, 4, 180]], device=place)
    found = C.roi_align_rotated_forward(maps, rois, 0.5, 2, 2, 2)
    straight = torchvision.ops.roi_align(maps, torch.tensor([[0, 5.0, 5, 11, 9]], device=place), 2, 0.5, 2, True)[0]
    assert_close(found[0], straight)
    assert_close(found[1], straight.rot90(-1, (1, 2)))  # right is up, down is right
    assert_close(found[2], straight.flip(1, 2))


def test_deformable_convolution(place: torch.device) -> None:
    maps, weight = torch.randn(2, 4, 7, 8, dtype=torch.float64), torch.randn(6, 4, 3, 2, dtype=torch.float64)
    offset, mask = torch.randn(2, 12, 4, 10, dtype=torch.float64), torch.rand(2, 6, 4, 10, dtype=torch.float64)
    grad = torch.randn(2, 6, 4, 10, dtype=torch.float64)

    def reference(maps: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        return torchvision.ops.deform_conv2d(maps, offset, weight, None, (2, 1), (1, 2), (1, 2), mask)

    x, w, o, m, g = (tensor.to(place) for tensor in (maps, weight, offset, mask, grad))
    buffer, output = x.new_empty(0), torch.empty_like(g)
    of_x, of_o, of_w, of_m = (torch.zeros_like(tensor) for tensor in (x, o, w, m))
    numbers = (2, 3, 1, 2, 2, 1, 2, 1, 1, 1)  # kernel, stride, padding, dilation: across, then down
    C.deform_conv_forward(x, w, o, output, buffer, buffer, *numbers, 2)
    assert_close(output.cpu(), reference(maps, offset, weight))
    C.deform_conv_backward_input(x, o, g, of_x, of_o, w, buffer, *numbers, 2)
    C.deform_conv_backward_filter(x, o, g, of_w, buffer, buffer, *numbers, 1, 2)
    assert_close((of_x.cpu(), of_o.cpu(), of_w.cpu()), gradients(reference, [maps, offset, weight], grad))

    bias, of_bias = x.new_empty(1), x.new_zeros(1)  # as detectron2 does where there is none
    numbers = (3, 2, 2, 1, 1, 2, 1, 2, 1, 1, False)  # down, then across
    C.modulated_deform_conv_forward(x, w, bias, buffer, o, m, output, buffer, *numbers)
    assert_close(output.cpu(), reference(maps, offset, weight, mask))
    given = (of_x, of_w, of_bias, of_o, of_m)
    C.modulated_deform_conv_backward(x, w, bias, buffer, o, m, buffer, *given, g, *numbers)
    expected = gradients(reference, [maps, offset, weight, mask], grad)
    assert_close((of_x.cpu(), of_o.cpu(), of_w.cpu(), of_m.cpu()), expected)


def test_versions_and_what_is_missing() -> None:
    assert C.get_compiler_version()
    assert C.has_cuda() >= torch.cuda.is_available()
    assert C.get_cuda_version() == (f"CUDA {torch.version.cuda}" if C.has_cuda() else "not available")
    with pytest.raises(NotImplementedError, match=r"detectron2\._C\.roi_align_forward"):
        C.roi_align_forward(1, 2)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools: pip install '.[peers]'")
@pytest.mark.parametrize("use_categories", [True, False])
def test_coco_evaluation(use_categories: bool) -> None:
    """As detectron2's COCOeval_opt calls it, against pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    draw = np.random.default_rng(0)
    truth, found = [], []
    for image in range(12):
        for _ in range(draw.integers(0, 9)):
            x, y, w, h = (*draw.uniform(0, 300, 2), *draw.uniform(8, 200, 2))
            entry = {"image_id": image, "category_id": int(draw.integers(3)), "bbox": [x, y, w, h], "area": w * h}
            truth.append(entry | {"id": len(truth) + 1, "iscrowd": int(draw.random() < 0.1)})
            for _ in range(draw.integers(0, 4)):
                moved = np.array([x, y, w, h]) + draw.normal(0, 10, 4)
                score = float(draw.integers(20)) / 20
                found.append(entry | {"bbox": moved.clip(1).tolist(), "score": score})
    dataset = COCO()
    images, categories = [{"id": i} for i in range(12)], [{"id": i} for i in range(4)]
    dataset.dataset = {"info": {}, "images": images, "categories": categories, "annotations": truth}
    dataset.createIndex()
    expected = COCOeval(dataset, dataset.loadRes(found), "bbox")
    expected.params.useCats = use_categories
    expected.evaluate()
    expected.accumulate()

    def instances(of: dict[tuple[int, int], list[dict[str, Any]]], image: int) -> list[list[C.InstanceAnnotation]]:
        by_category = [
            [
                C.InstanceAnnotation(d["id"], d.get("score", 0.0), d["area"], bool(d["iscrowd"]), bool(d.get("ignore")))
                for d in of[image, c]
            ]
            for c in range(4)
        ]
        return by_category if use_categories else [[one for instances in by_category for one in instances]]

    p = expected.params
    overlaps = [[expected.ious[i, c] for c in (range(4) if use_categories else [-1])] for i in range(12)]
    both = [[instances(of, i) for i in range(12)] for of in (expected._gts, expected._dts)]
    evaluations = C.COCOevalEvaluateImages(p.areaRng, p.maxDets[-1], p.iouThrs, overlaps, *both)
    result = C.COCOevalAccumulate(p, evaluations)
    counts = result["counts"]
    assert counts == expected.eval["counts"] and (expected.eval["precision"] > 0.5).any()
    for name, shape in {"precision": counts, "scores": counts, "recall": counts[:1] + counts[2:]}.items():
        np.testing.assert_allclose(np.array(result[name]).reshape(shape), expected.eval[name], atol=1e-12, err_msg=name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``detectron2`` without compiled module, which it does without if it has to, as the original."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
            del sys.modules[name]

    folder = tmp_path / "detectron2"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "layers.py").write_text("try:\n  from detectron2 import _C\nexcept ImportError:\n  _C = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    forget()


def layers() -> Any:
    return importlib.import_module("detectron2.layers")


def test_install(package: Path) -> None:
    assert detectron2.install() and detectron2.install()
    assert layers()._C is C


def test_install_too_late(package: Path) -> None:
    assert layers()._C is None
    with pytest.raises(RuntimeError, match=r"too late, detectron2\.layers is already imported without it"):
        detectron2.install()


def test_a_compiled_module_stays_unless_forced(package: Path) -> None:
    (package / "_C.py").write_text("compiled = True")
    assert not detectron2.install()
    assert detectron2.install(force=True)
    assert layers()._C is C
