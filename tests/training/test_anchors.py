"""Anchors fitted to boxes, and detectors built with them."""

import dataclasses

import pytest
import torch

from detops._errors import UserError
from detops.heads.anchors import AnchorGenerator, DefaultBoxes
from detops.model_file import ModelConfig
from detops.training import anchors, models

TINY = {"backbone": "resnet10t", "min_size": 64, "max_size": 96}
CONFIGS = [
    ModelConfig("detect", "retinanet_resnet50_fpn", ("cat",), TINY),
    ModelConfig("detect", "fasterrcnn_resnet50_fpn", ("cat",), TINY),
    ModelConfig("detect", "ssdlite320_mobilenet_v3_large", ("cat",), {"size": [64, 64]}),
]


def long_boxes(number: int = 200) -> torch.Tensor:
    """Five times as wide as high, of many sizes, in images of 128 x 256."""
    heights = torch.linspace(4, 30, number)
    images = torch.tensor([[256.0, 128.0]]).expand(number, 2)
    return torch.cat([torch.stack([5 * heights, heights], dim=1), images], dim=1)


def scale(sizes: torch.Tensor) -> float:
    return float(sizes.log().mean().exp())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_configuration_rebuilds_the_fitted_anchors(config: ModelConfig) -> None:
    fitted, said = models.with_fitted_anchors(config, long_boxes(), seed=0)
    assert "200 boxes" in said
    own, rebuilt = config.build(), ModelConfig.from_json(fitted.to_json()).build()
    before, after = (
        next(m for m in model.modules() if isinstance(m, AnchorGenerator | DefaultBoxes)) for model in (own, rebuilt)
    )
    assert after.per_location == before.per_location
    sizes = torch.cat(after.sizes)
    torch.testing.assert_close(
        sizes, torch.tensor([size for level in fitted.options["anchor_sizes"] for size in level])
    )
    ratio = sizes[:, 0] / sizes[:, 1]
    # SSD sees 64 x 64 of images twice as wide as high: shares of 5 to 1 are 2.5 to 1
    assert ratio.median() == pytest.approx(2.5 if isinstance(after, DefaultBoxes) else 5, rel=0.1)
    of_equal_number = [i for i, count in enumerate(after.per_location) if count == after.per_location[0]]
    for i in of_equal_number:  # the levels keep their scales
        grown, own_grown = (scale(model.sizes[i]) / scale(model.sizes[0]) for model in (after, before))
        assert grown == pytest.approx(own_grown, rel=1e-3)
    with torch.no_grad():
        assert len(rebuilt.eval()([torch.rand(3, 64, 64)])) == 1


def test_the_recall_is_of_boxes_as_the_network_sees_them() -> None:
    config = CONFIGS[0]
    fitted = anchors.fit(models.build(config, models.Strategy("all"), 0), long_boxes())
    assert fitted.recall == 1
    assert fitted.recall > fitted.recall_before
    transform = models.build(config, models.Strategy("all"), 0).transform
    boxes = torch.tensor([[10.0, 20, 128, 128], [10, 20, 512, 64]])
    expected = torch.tensor([[5.0, 10], [10 * 96 / 512, 20 * 96 / 512]])  # by the shorter side; by the longer
    torch.testing.assert_close(anchors.scale_to_network(boxes, transform), expected)


def test_too_few_boxes() -> None:
    with pytest.raises(
        UserError, match="--auto-anchors: expected at least 9 boxes, one for each anchor of a level, got 7"
    ):
        models.with_fitted_anchors(CONFIGS[0], long_boxes(7), seed=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([[[8.0, 8.0]]] * 4, "anchor_sizes of 5 levels, got 4"),
        ([[[8.0, 8.0]]] * 4 + [[[8.0, 8.0], [9.0, 9.0]]], "as many anchors for each level"),
        ([[[8.0, -8.0]]] * 5, "above 0"),
    ],
)
def test_anchor_sizes_that_a_detector_cannot_have(sizes: list[list[list[float]]], message: str) -> None:
    config = dataclasses.replace(CONFIGS[0], options=TINY | {"anchor_sizes": sizes})
    with pytest.raises(ValueError, match=message):
        config.build()
