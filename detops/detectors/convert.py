"""Weights published elsewhere, read into our detectors. No code from a file is run."""

import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..heads.retina import RetinaNetHead
from ..heads.roi import TwoStageHead
from ..heads.ssd import SSDHead
from ..necks.ssd import VGGExtraLevels
from ..ops import FrozenBatchNorm2d
from . import mmdet_names
from .renaming import Rules, renamed

StateDict = Mapping[str, Tensor]
Weights = StateDict | str | PathLike[str] | None
Model = TypeVar("Model", bound=nn.Module)

_SOURCES = ("torchvision", "mmdet", "detops")
_COUNTER = "num_batches_tracked"  # which frozen batch normalisation does not have

# Files of torchvision whose frozen batch normalisation was trained without eps.
_WITHOUT_EPS = ("fasterrcnn_resnet50_fpn_coco", "retinanet_resnet50_fpn_coco")

_FPN: Rules = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"neck.\1_blocks.\2.0.\3"),  # before 0.14
    (r"backbone\.fpn\.", "neck."),
)
_TORCHVISION: dict[type[nn.Module], Rules] = {
    TwoStageHead: (
        *_FPN,
        (r"rpn\.head\.conv\.(weight|bias)$", r"head.rpn.conv.0.0.\1"),  # before 0.14
        (r"rpn\.head\.conv\.", "head.rpn.conv."),
        (r"rpn\.head\.cls_logits\.", "head.rpn.objectness."),
        (r"rpn\.head\.bbox_pred\.", "head.rpn.deltas."),
        (r"roi_heads\.box_head\.fc6\.", "head.roi.box_head.1."),
        (r"roi_heads\.box_head\.fc7\.", "head.roi.box_head.3."),
        (r"roi_heads\.box_head\.", "head.roi.box_head."),
        (r"roi_heads\.box_predictor\.cls_score\.", "head.roi.classes."),
        (r"roi_heads\.box_predictor\.bbox_pred\.", "head.roi.deltas."),
    ),
    RetinaNetHead: (
        *_FPN,
        (r"head\.(classification|regression)_head\.(cls_logits|bbox_reg)\.", r"head.\1.predictor."),
        (r"head\.(classification|regression)_head\.conv\.0\.(weight|bias)$", r"head.\1.conv.0.0.\2"),  # before 0.14
        (r"head\.(classification|regression)_head\.conv\.2\.(weight|bias)$", r"head.\1.conv.1.0.\2"),
        (r"head\.(classification|regression)_head\.conv\.4\.(weight|bias)$", r"head.\1.conv.2.0.\2"),
        (r"head\.(classification|regression)_head\.conv\.6\.(weight|bias)$", r"head.\1.conv.3.0.\2"),
        (r"head\.(classification|regression)_head\.", r"head.\1."),
    ),
    VGGExtraLevels: (
        (r"backbone\.scale_weight$", "neck.scale"),
        (r"backbone\.features\.", "backbone."),
        (r"backbone\.extra\.0\.7\.", "neck.fc."),
        *((rf"backbone\.extra\.0\.{i}\.", f"backbone.{23 + i}.") for i in range(7)),  # pool4 to conv5_3
        *((rf"backbone\.extra\.{i + 1}\.", f"neck.extra.{i}.") for i in range(4)),
        (r"head\.(classification|regression)_head\.module_list\.", r"head.\1."),
    ),
    SSDHead: (
        (r"backbone\.features\.0\.13\.", "backbone.13_expand."),
        (r"backbone\.features\.1\.0\.", "backbone.13_project."),
        (r"backbone\.features\.0\.", "backbone."),
        *((rf"backbone\.features\.1\.{i}\.", f"backbone.{13 + i}.") for i in range(1, 4)),
        (r"backbone\.extra\.", "neck.extra."),
        (r"head\.(classification|regression)_head\.module_list\.", r"head.\1."),
    ),
}


def load(
    model: Model,
    weights: StateDict | str | PathLike[str],
    source: str = "torchvision",
    batch_norm_eps: float | None = None,
) -> Model:
    """Read weights published elsewhere into a detector of the same architecture.

    Args:
        model: Built as its source's; on any device, of any dtype.
        weights: A state dict, or a file of ``torch.save`` (read with ``weights_only=True``) or of safetensors.
        source: Whose names they have: "torchvision", "mmdet", or "detops" for our own.
        batch_norm_eps: Of all frozen batch normalisation; None: as it is, but 0 for torchvision's files
            ``fasterrcnn_resnet50_fpn_coco-*.pth`` and ``retinanet_resnet50_fpn_coco-*.pth``, which were trained so.

    Returns:
        The model.

    Raises:
        ValueError: If the file cannot be read, or names or shapes are not those of the model: the message names them.
    """
    if source not in _SOURCES:
        raise ValueError(f"convert.load: expected source of {', '.join(_SOURCES)}, got {source!r}")
    state = dict(weights) if isinstance(weights, Mapping) else read(weights)
    if source == "torchvision":
        state = renamed_as_ours(state, model)
        if not isinstance(weights, Mapping) and Path(weights).name.startswith(_WITHOUT_EPS):
            batch_norm_eps = 0.0 if batch_norm_eps is None else batch_norm_eps
    elif source == "mmdet":
        state = mmdet_names.renamed_as_ours(state, model)
    _fill(model, state)
    if batch_norm_eps is not None:
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = batch_norm_eps
    return model


def load_own(model: Model, weights: Weights) -> Model:
    """What a builder does with its ``weights``: nothing for None, else names as ours, torchvision's or mmdet's."""
    if weights is None:
        return model
    state = weights if isinstance(weights, Mapping) else read(weights)
    own = set(model.state_dict())
    if any(name.startswith(mmdet_names.PREFIXES) for name in state):
        source = "mmdet"
    else:
        source = "detops" if sum(name in own for name in state) * 2 > len(state) else "torchvision"
    return load(model, weights if source == "torchvision" else state, source)


def read(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file; of a training checkpoint what stands under "model" or "state_dict"."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected weights in {path}: it is broken, or holds objects whose reading would run code;"
            " whoever trusts it can save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"expected weights in {path}: {' '.join(str(error).split())[:200]}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"expected a state dict in {path}, got {type(content).__name__}")
    return content


def renamed_as_ours(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Weights of torchvision's detector by the names that ``model`` has for them."""
    return renamed(state, _rules(model))


def _rules(model: nn.Module) -> Rules:
    for kind, rules in _TORCHVISION.items():
        if any(isinstance(part, kind) for part in model.children()):
            return rules
    raise ValueError(f"convert.load: expected a detector that torchvision has, got {type(model).__name__}")


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in own or not name.endswith(_COUNTER)}
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    unknown = [name for name in given if name not in own]
    for what, names in (("lack", missing), ("have the unknown", unknown)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"expected weights of this architecture; they {what} {', '.join(names[:3])}{more}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"expected {name} of shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
    model.load_state_dict(given, strict=False)
