"""The model of a training: how it is built, and what it starts from."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..detectors import Detector
from ..model_file import ModelConfig
from . import anchors
from .finetune import Strategy

_LONGER = 5 / 3  # the longer side at most, over the shorter: 1333 / 800


def size_options(task: str, name: str, image_size: int) -> dict[str, Any]:
    """Options of a builder for the images' size.

    Args:
        task: "detect", "classify" or "segment".
        name: Of the detector.
        image_size: Pixels: of SSD and classifiers both sides, else the shorter side.
    """
    if task != "detect":
        return {"size": image_size}
    if name.startswith("ssd"):
        return {"size": [image_size, image_size]}
    return {"min_size": image_size, "max_size": round(image_size * _LONGER)}


def build(config: ModelConfig, strategy: Strategy, seed: int) -> nn.Module:
    """A model to train, with random weights and its first stages frozen if the strategy is "partial".

    Raises:
        UserError: If there is no such model, or it has not so many stages.
    """
    torch.manual_seed(seed)
    try:
        return dataclasses.replace(config, options={**config.options, **strategy.builder_options}).build()
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        what = f"expected options of {config.name}, it has no {unknown[1]}" if unknown else str(error)
        raise UserError(f"train: {what}") from error


def load_published_backbone(model: nn.Module, config: ModelConfig) -> None:
    """Fetches the weights that timm or torchvision publish for the backbone.

    Raises:
        UserError: If there are none, or none that fit.
    """
    frozen = config.options.get("frozen_batch_norm", False)
    options = {"pretrained_backbone": True, "frozen_stages": 0, "frozen_batch_norm": frozen}
    try:
        published = dataclasses.replace(config, options={**config.options, **options}).build()
        model.get_submodule("backbone").load_state_dict(published.get_submodule("backbone").state_dict())
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"train: --pretrained-backbone of {config.name}: {str(error)[:300]}") from error


def with_fitted_anchors(config: ModelConfig, box_sizes: Tensor, seed: int) -> tuple[ModelConfig, str]:
    """A detector's configuration with anchors for a data set's boxes, and what to say about them.

    Args:
        config: Of the detector.
        box_sizes: See :func:`detops.training.anchors.fit`.
        seed: Of the search.
    """
    model = build(config, Strategy("all"), seed)
    assert isinstance(model, Detector)
    fitted = anchors.fit(model, box_sizes, seed)
    options = {**config.options, "anchor_sizes": fitted.sizes}
    counts: Sequence[int] = [len(level) for level in fitted.sizes]
    said = (
        f"anchors: {sum(counts)} fitted to {len(box_sizes)} boxes; can become {fitted.recall:.1%} of them,"
        f" the detector's own {fitted.recall_before:.1%}"
    )
    return dataclasses.replace(config, options=options), said
