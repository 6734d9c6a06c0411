"""torchvision's state dicts, of today and of before its version 0.14, and its published files' peculiarities."""

from pathlib import Path

import detector_pairs as pairs
import pytest
import torch
from torch import Tensor

from detops import detectors
from detops.ops import FrozenBatchNorm2d

pytestmark = pytest.mark.slow

OLD = {  # names of the convolutions before each had a block of its own, as in the files that torchvision publishes
    "fasterrcnn_resnet50_fpn": [
        *(
            (f"backbone.fpn.{part}_blocks.{i}.0.", f"backbone.fpn.{part}_blocks.{i}.")
            for part in ("inner", "layer")
            for i in range(4)
        ),
        ("rpn.head.conv.0.0.", "rpn.head.conv."),
    ],
    "retinanet_resnet50_fpn": [
        *(
            (f"backbone.fpn.{part}_blocks.{i}.0.", f"backbone.fpn.{part}_blocks.{i}.")
            for part in ("inner", "layer")
            for i in range(3)
        ),
        *(
            (f"head.{part}_head.conv.{i}.0.", f"head.{part}_head.conv.{2 * i}.")
            for part in ("classification", "regression")
            for i in range(4)
        ),
    ],
}


def _old_names(state: dict[str, Tensor], changes: list[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for new, old in changes:
            if name.startswith(new):
                name = old + name.removeprefix(new)
                break
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("name", OLD)
def test_published_files(name: str, tmp_path: Path) -> None:
    state = pairs.theirs(name, 91).state_dict()
    published = _old_names(state, OLD[name])
    assert set(published) != set(state)
    path = tmp_path / f"{name}_coco-0123abcd.pth"
    torch.save({key: value for key, value in published.items() if not key.endswith("num_batches_tracked")}, path)
    model = detectors.build(name, weights=path)
    direct = detectors.convert.load(detectors.build(name), state)
    mine = model.state_dict()
    assert all(value.equal(mine[key]) for key, value in direct.state_dict().items() if key in mine)
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 53 and {norm.eps for norm in norms} == {0.0}
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen and all(key.startswith(("backbone.conv1", "backbone.layer1")) for key in frozen)


def test_says_what_does_not_fit() -> None:
    state = pairs.theirs("ssdlite320_mobilenet_v3_large").state_dict()
    with pytest.raises(ValueError, match=r"head.classification.0.1.weight of shape \(30, 672, 1, 1\), got \(42, "):
        detectors.build("ssdlite320_mobilenet_v3_large", num_classes=5, weights=state)
    with pytest.raises(ValueError, match="expected weights of this architecture; they lack"):
        detectors.convert.load(detectors.build("retinanet_resnet50_fpn"), state)


def test_eps_can_be_said() -> None:
    state = pairs.theirs("fasterrcnn_mobilenet_v3_large_fpn").state_dict()
    model = detectors.fasterrcnn_mobilenet_v3_large_fpn(pairs.CLASSES, frozen_batch_norm=True)
    detectors.convert.load(model, state, batch_norm_eps=0.25)
    assert {module.eps for module in model.modules() if isinstance(module, FrozenBatchNorm2d)} == {0.25}
