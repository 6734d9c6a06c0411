"""What trainings are asked to do: papers' values, mistakes, learning rates and parameter groups."""

import pytest
import torch
from torch import nn

from detops._errors import UserError
from detops.training import optimisers
from detops.training.options import TrainingOptions


def options(**given: object) -> TrainingOptions:
    return TrainingOptions.for_model("detect", "retinanet_resnet50_fpn", data="digits", **given)


@pytest.mark.parametrize(
    ("name", "batch", "rate", "decay"),
    [
        ("fasterrcnn_resnet50_fpn", 16, 0.02, 1e-4),
        ("libra_fasterrcnn_resnet50_fpn", 16, 0.02, 1e-4),
        ("retinanet_resnet50_fpn_v2", 16, 0.01, 1e-4),
        ("retinanet_resnet50_fpn", 4, 0.0025, 1e-4),
        ("ssd300_vgg16", 32, 1e-3, 5e-4),
        ("ssdlite320_mobilenet_v3_large", 64, 2e-3, 5e-4),
    ],
)
def test_the_papers_learning_rate_grows_with_the_batch(name: str, batch: int, rate: float, decay: float) -> None:
    given = TrainingOptions.for_model("detect", name, data="digits", batch_size=batch)
    assert given.learning_rate == pytest.approx(rate)
    assert (given.weight_decay, given.momentum, given.schedule) == (decay, 0.9, "multistep")
    halves = TrainingOptions.for_model("detect", name, data="digits", batch_size=batch // 2, accumulate=2)
    assert halves.learning_rate == pytest.approx(rate)


def test_what_is_given_counts() -> None:
    given = options(learning_rate=0.5, val_data="coco:other", schedule=None)
    assert (given.learning_rate, given.val_data, given.data, given.schedule) == (
        0.5,
        "coco:other",
        "digits",
        "multistep",
    )
    assert TrainingOptions.from_json(given.to_json()) == given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", float("inf")),
        ("momentum", 1.0),
        ("ema", -0.1),
        ("image_size", 16),
        ("schedule", "linear"),
        ("precision", "64"),
        ("finetune", "partial"),
        ("finetune", "partial:0"),
        ("finetune", "head:2"),
        ("finetune", "tail"),
    ],
)
def test_mistakes_are_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"train: expected --{name.replace('_', '-')} .*, got {value}$"):
        options(**{name: value})


def factors(schedule: str, steps: int = 90, **given: object) -> list[float]:
    factor = optimisers.schedule(options(schedule=schedule, **given), steps)
    return [factor(step) for step in range(steps + 1)]


def test_multistep_drops_twice() -> None:
    values = factors("multistep", warmup_steps=0)
    assert values[:60] == [1.0] * 60
    assert values[60:80] == pytest.approx([0.1] * 20)
    assert values[80:] == pytest.approx([0.01] * 11)


def test_warm_up_grows_from_a_thousandth_for_at_most_a_tenth_of_the_steps() -> None:
    values = factors("constant", warmup_steps=500)
    assert values[0] == pytest.approx(1e-3)
    assert values[:10] == sorted(values[:10]) and values[8] < 1
    assert values[9:] == [1.0] * 82


def test_cosine_falls_to_nothing() -> None:
    values = factors("cosine", warmup_steps=0)
    assert values == sorted(values, reverse=True)
    assert values[45] == pytest.approx(0.5) and values[90] == pytest.approx(0)


def test_onecycle_rises_and_falls() -> None:
    values = factors("onecycle")
    assert values[0] == pytest.approx(1 / 25) and max(values) == values[27] == pytest.approx(1)
    assert values[90] == pytest.approx(1e-4)


def test_groups_are_disjoint_and_whole() -> None:
    model = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for name in ("backbone", "head")})
    model["backbone"][0].bias.requires_grad_(False)
    groups = optimisers.build(model, options(backbone_lr_factor=0.1, learning_rate=1.0, weight_decay=0.5)).param_groups
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
    assert found == [(0.1, 0.5, 1), (0.1, 0.0, 2), (1.0, 0.5, 1), (1.0, 0.0, 3)]
    assert isinstance(optimisers.build(model, options(optimizer="adamw")), torch.optim.AdamW)
