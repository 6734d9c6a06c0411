"""Backbones of timm and torchvision: levels, strides, what is frozen; in any detector."""

import pytest
import torch
from torch import nn

from detops import backbones, detectors
from detops.backbones import Stages
from detops.ops import FrozenBatchNorm2d

pytest.importorskip("timm", reason="backbones of timm")
pytest.importorskip("torchvision", reason="backbones of torchvision")

BACKBONES = [
    "vgg16",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "xception41",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "cspdarknet53",
]
_SMALL = {"min_size": 64, "max_size": 96, "neck_channels": 16}
DETECTORS = {
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 96},
    "fasterrcnn_resnet50_fpn": {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_train": 30},
    "ssd300_vgg16": {},
    "fasterrcnn_resnet50_pafpn": _SMALL | {"rpn_post_nms_top_n_train": 30, "representation": 32},
    "libra_fasterrcnn_resnet50_fpn": _SMALL | {"rpn_post_nms_top_n_train": 30, "representation": 32},
    "libra_retinanet_resnet50_fpn": _SMALL,
    "retinanet_resnet50_nasfpn": _SMALL,
}


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "cspdarknet53", "torchvision/efficientnet_b0"])
def test_features_have_the_channels_and_strides_that_it_says(name: str) -> None:
    backbone = backbones.build(name, strides=(8, 32)).eval()
    assert backbone.strides == [8, 32]
    features = backbone(torch.rand(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_the_levels_of_both_libraries_are_the_same(name: str) -> None:
    backbone = backbones.build(name)
    assert (backbone.channels, backbone.strides) == ([64, 128, 256, 512], [4, 8, 16, 32])


@pytest.mark.parametrize("prefix", ["model.", "torchvision/"])
def test_frozen_stages(prefix: str) -> None:
    name = "torchvision/resnet18" if "/" in prefix else "resnet18"
    backbone = backbones.build(name, frozen_stages=2)
    for key, parameter in backbone.named_parameters():
        stage = key.removeprefix("model.").split(".")[0]
        assert parameter.requires_grad == (stage not in ("conv1", "bn1", "layer1")), key


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_frozen_batch_norm(name: str) -> None:
    backbone = backbones.build(name, frozen_batch_norm=True).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.rand(2, 3, 64, 64))[-1].sum().backward()
    assert all(value.equal(before[key]) for key, value in backbone.state_dict().items())


def test_measuring_leaves_the_statistics_alone() -> None:
    stages = Stages({"conv": nn.Conv2d(3, 4, 3, stride=2, padding=1), "norm": nn.BatchNorm2d(4)}, ["norm"])
    assert (stages.channels, stages.strides) == ([4], [2])
    assert stages.norm.running_mean.equal(torch.zeros(4)) and stages.norm.num_batches_tracked == 0


def test_frozen_batch_norm_keeps_eps_and_statistics() -> None:
    backbone = backbones.torchvision_backbone("mobilenet_v3_large", frozen_batch_norm=True)
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) > 20 and {norm.eps for norm in norms} == {0.001}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_net", {}, "name of a timm model, got 'no_such_net'"),
        ("torchvision/no_such_net", {}, "name of a torchvision classification model, got 'no_such_net'"),
        ("elsewhere/resnet18", {}, "expected a backbone of timm"),
        ("resnet18", {"strides": (4, 6)}, r"strides of resnet18 among \[2, 4, 8, 16, 32\], got \[6\]"),
        ("torchvision/resnet18", {"strides": (6,)}, r"strides of resnet18 among \[2, 4, 8, 16, 32\], got \[6\]"),
        ("resnet18", {"frozen_stages": 9}, "frozen_stages of resnet18 from 0 to 5, got 9"),
        ("torchvision/resnet18", {"frozen_stages": -1}, "frozen_stages of resnet18 from 0 to 5, got -1"),
        (nn.Identity(), {}, "a backbone with channels and strides, got Identity"),
    ],
)
def test_says_what_is_wrong(name: str | nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbones.build(name, **options)


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone_in_any_detector(name: str, detector: str) -> None:
    model = detectors.build(detector, num_classes=4, backbone=name, **DETECTORS[detector]).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = next(model.backbone.parameters()).clone()
    images = [torch.rand(3, 64, 80), torch.rand(3, 96, 64)]
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 50]]), "labels": torch.tensor([1])} for _ in images]
    loss = sum(model(images, targets).values())
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    assert not next(model.backbone.parameters()).equal(before)
    with torch.no_grad():
        assert len(model.eval()(images)) == 2
