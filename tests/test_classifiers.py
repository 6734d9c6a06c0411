"""Classifiers on the detectors' backbones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detops import classifiers
from detops.backbones import Stages
from detops.images import ImageTransform


class _Mean(nn.Module):
    """A backbone whose features are the image's channels."""

    channels, strides = [3], [1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


def _plain(**options: float) -> classifiers.Classifier:
    transform = ImageTransform(image_mean=(0, 0, 0), image_std=(1, 1, 1), size_divisible=1, fixed_size=(4, 4))
    return classifiers.Classifier(transform, _Mean(), 2, **options)


def test_by_hand() -> None:
    model = _plain()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]))
        model.classifier.bias.zero_()
    images = [torch.ones(3, 4, 4) * torch.tensor([1.0, 0.5, 0])[:, None, None], torch.zeros(3, 8, 6)]
    torch.testing.assert_close(model.eval()(images), torch.full((2, 2), 0.5))
    loss = model.train()(images, torch.tensor([0, 1]))
    assert loss.keys() == {"classification"}
    torch.testing.assert_close(loss["classification"], torch.tensor(2.0).log())
    torch.testing.assert_close(model.features(images), torch.tensor([[1, 0.5, 0], [0, 0, 0]]))


@pytest.mark.parametrize("name", ["resnet10t", "torchvision/vgg11", "mobilenetv3_small_050"])
def test_learns_a_colour_on_any_backbone(name: str) -> None:
    torch.manual_seed(1)
    model = classifiers.build(name, 2, size=64, dropout=0.1, label_smoothing=0.05)
    labels = torch.arange(8) % 2
    images = [torch.rand(3, 40, 50) * (0.2 + 0.8 * F.one_hot(2 * label, 3))[:, None, None] for label in labels]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(12):
        loss = model.train()(images, labels)["classification"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5


def test_frozen_stages_are_the_backbone_s() -> None:
    model = classifiers.build("torchvision/resnet18", 5, frozen_stages=2)
    assert isinstance(model.backbone, Stages)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any(name.startswith(("backbone.conv1", "backbone.layer1")) for name in trained)
    assert {"classifier.weight", "backbone.layer2.0.conv1.weight"} <= trained


def test_says_what_is_wrong() -> None:
    model, images = _plain().train(), [torch.rand(3, 4, 4)] * 2
    for labels, message in (
        (None, "expected labels in training, got None"),
        (torch.zeros(3, dtype=torch.int64), r"expected labels \(2,\) of torch.int64, got \(3,\)"),
        (torch.zeros(2), r"got \(2,\) of torch.float32"),
        (torch.tensor([0, 2]), r"expected labels from 0 to 1, got 2 of images\[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model(images, labels)
