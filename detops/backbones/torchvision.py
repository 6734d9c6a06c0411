"""torchvision's classification networks as backbones."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..ops import FrozenBatchNorm2d
from .stages import Stages, check_frozen_stages, stages_of

_BEHIND_THE_FEATURES = ("avgpool", "fc", "classifier", "head", "norm")


def torchvision_backbone(
    name: str,
    strides: Sequence[int] | None = (4, 8, 16, 32),
    *,
    outputs: Sequence[str] | None = None,
    pretrained: bool = False,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
    **options: Any,
) -> Stages:
    """The features of a network of :mod:`torchvision.models` whose modules run one after the other.

    Args:
        name: As for :func:`torchvision.models.get_model`: ``"resnet50"``, ``"vgg16"``, ``"mobilenet_v3_large"``, ...
        strides: Of the levels wanted, each taken at the last module that has it.
        outputs: Names of the modules whose outputs are wanted, in place of ``strides``.
        pretrained: Fetch the best weights that torchvision publishes.
        frozen_stages: Leading stages that are not trained; a stage ends where the stride grows.
        frozen_batch_norm: :class:`detops.ops.FrozenBatchNorm2d` for batch normalisation.
        options: For torchvision's builder.

    Returns:
        A backbone; its modules, and so its parameters, have torchvision's names.

    Raises:
        ValueError: If there is no such network, or it has no such level.
    """
    modules = torchvision_modules(
        name, pretrained=pretrained, frozen_stages=frozen_stages, frozen_batch_norm=frozen_batch_norm, **options
    )
    return Stages(modules, outputs or _last_of_each_stride(name, modules, strides or ()))


def torchvision_modules(
    name: str,
    *,
    pretrained: bool = False,
    frozen_stages: int = 0,
    frozen_batch_norm: bool = False,
    **options: Any,
) -> dict[str, nn.Module]:
    """The modules of a network's features, in order, by name; arguments as :func:`torchvision_backbone`."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError('torchvision\'s backbones need it installed: pip install "detops[detectors]"') from error

    if name not in models.list_models(module=models):
        raise ValueError(f"expected the name of a torchvision classification model, got {name!r}")
    network = models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    modules = dict(getattr(network, "features", network).named_children())
    modules = {key: module for key, module in modules.items() if key not in _BEHIND_THE_FEATURES}
    if frozen_batch_norm:
        modules = {key: _with_frozen_batch_norm(module) for key, module in modules.items()}
    stages = stages_of(modules)
    check_frozen_stages(name, frozen_stages, len(stages))
    for stage in list(stages.values())[:frozen_stages]:
        for key in stage:
            modules[key].requires_grad_(False)
    return modules


def _last_of_each_stride(name: str, modules: dict[str, nn.Module], strides: Sequence[int]) -> list[str]:
    stages = stages_of(modules)
    missing = [stride for stride in strides if stride not in stages]
    if missing or not strides:
        raise ValueError(f"expected strides of {name} among {list(stages)}, got {missing}")
    return [stages[stride][-1] for stride in strides]


def _with_frozen_batch_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, _with_frozen_batch_norm(child))
    return module
