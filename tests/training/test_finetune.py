"""Which parts learn, and what a model starts from."""

import dataclasses

import pytest
import torch
from torch import nn

from detops._errors import UserError
from detops.model_file import ModelConfig
from detops.training import models
from detops.training.finetune import Strategy, load_weights

TINY = {"backbone": "resnet10t", "min_size": 64, "max_size": 64}
RETINANET = ModelConfig("detect", "retinanet_resnet50_fpn", ("cat", "dog"), TINY)


def build(strategy: str, config: ModelConfig = RETINANET) -> nn.Module:
    parsed = Strategy.parse(strategy)
    model = models.build(config, parsed, seed=0)
    parsed.freeze(model)
    return model


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def normalising(model: nn.Module) -> set[str]:
    """Batch normalisation that takes statistics."""
    return {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training}


def test_all_learns() -> None:
    model = build("all")
    Strategy.parse("all").begin_epoch(0, model, ())
    assert learning(model) == {name for name, _ in model.named_parameters()}
    assert all(module.training for module in model.modules())


def test_partial_freezes_the_first_stages_and_their_statistics() -> None:
    model = build("partial:2")
    Strategy.parse("partial:2").begin_epoch(0, model, ())
    frozen = {name for name, _ in model.named_parameters()} - learning(model)
    stages = {name.split(".")[2] for name in frozen}
    assert stages == {"conv1", "bn1", "layer1"}
    everywhere = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.split(".")[2] for name in everywhere - normalising(model)} == {"conv1", "bn1", "layer1"}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    model(images, [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([0])}] * 2)
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert {name.split(".")[2] for name in changed} == {"layer2", "layer3", "layer4"}


def test_head_freezes_the_backbone() -> None:
    model = build("head")
    Strategy.parse("head").begin_epoch(0, model, ())
    assert {name.split(".")[0] for name in learning(model)} == {"neck", "head"}
    assert not model.get_submodule("backbone").training and model.training


def test_head_then_all_switches() -> None:
    model, strategy = build("head-then-all:2"), Strategy.parse("head-then-all:2")
    everything = {name for name, _ in model.named_parameters()}
    assert learning(model) == everything
    for epoch, expected in ((0, {"neck", "head"}), (1, {"neck", "head"}), (2, {"backbone", "neck", "head"})):
        strategy.begin_epoch(epoch, model, ())
        assert {name.split(".")[0] for name in learning(model)} == expected
    assert learning(model) == everything and len(normalising(model)) > 0
    new = ["head.classification.predictor.weight", "head.classification.predictor.bias"]
    strategy.begin_epoch(1, model, new)
    assert learning(model) == set(new)


def test_too_many_stages() -> None:
    with pytest.raises(UserError, match="expected frozen_stages of resnet10t from 0 to 5, got 7"):
        build("partial:7")


def test_the_same_classes_load_whole() -> None:
    source, model = build("all"), models.build(RETINANET, Strategy("all"), seed=1)
    assert load_weights(model, RETINANET, source, RETINANET) == []
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "dog", "bird")])
def test_other_classes_make_the_classifier_new_and_nothing_else(classes: tuple[str, ...]) -> None:
    config = dataclasses.replace(RETINANET, classes=classes)
    source, model = build("all"), models.build(config, Strategy("all"), seed=1)
    new = load_weights(model, config, source, RETINANET)
    assert new == ["head.classification.predictor.weight", "head.classification.predictor.bias"]
    weights = source.state_dict()
    for name, tensor in model.state_dict().items():
        same = tensor.shape == weights[name].shape and torch.equal(tensor, weights[name])
        assert same or name in new, name
    assert not torch.equal(model.state_dict()[new[0]][:1], weights[new[0]][:1])


def test_weights_that_do_not_fit_at_all() -> None:
    with pytest.raises(UserError, match="nothing fits"):
        load_weights(nn.Linear(2, 2), RETINANET, build("all"), RETINANET)
