"""``detops convert``."""

import argparse
from pathlib import Path

import torch
from torch import nn

from .. import detectors, model_file
from .._errors import UserError
from ..model_file import ModelConfig
from ..ops import FrozenBatchNorm2d

TORCHVISION_CLASSES = 91  # with a background, and numbers that COCO's categories skip


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    out = Path(options.out)
    if out.suffix != ".safetensors":
        raise UserError(f"convert: --out {out}: expected a name that ends in .safetensors")
    if not Path(options.source).is_file():
        raise UserError(f"convert: expected a file of weights, found none at {options.source}")
    if options.detector not in detectors.names():
        known = ", ".join(detectors.names())
        raise UserError(f"convert: --detector {options.detector}: expected one of {known}")
    config = ModelConfig("detect", options.detector, _classes(options), _builder_options(options))
    model = converted(config, options.source, options.origin)
    try:
        model_file.save(out, model, config)
    except OSError as error:
        raise UserError(f"convert: --out {out}: cannot be written: {error.strerror}") from error
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"wrote {out}: {config.name}, {len(config.classes)} classes, {millions:.1f} million parameters")
    return 0


def converted(config: ModelConfig, source: str, origin: str) -> nn.Module:
    """A model with weights of a file.

    Args:
        config: Of an architecture that the weights fit.
        source: The file.
        origin: Whose names it has: "torchvision", "mmdet" or "detops".

    Raises:
        UserError: If the file cannot be read or does not fit.
    """
    try:
        model = config.build()
        built = _epsilons(model)
        detectors.convert.load(model, source, origin)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise UserError(f"convert: {source}: {' '.join(str(error).split())[:300]}") from error
    for module, eps in built.items():
        _restore_eps(module, eps)
    return model.eval()


def coco_classes(detector: str) -> tuple[str, ...]:
    """Names of the classes of torchvision's weights, 91 with the background.

    Where the detector has that of its own, it is left out. Numbers that COCO does not use get names of their own.
    """
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    objects = TORCHVISION_CLASSES if detectors.num_classes(detector, 1) == 1 else TORCHVISION_CLASSES - 1
    named = [f"unused {number}" if name in ("N/A", "__background__") else name for number, name in enumerate(names)]
    return tuple(named[-objects:])


def mmdet_classes(detector: str) -> tuple[str, ...]:
    """Names of the 80 classes of mmdet's weights: those of COCO, without the numbers that it does not use."""
    return tuple(name for name in coco_classes(detector) if not name.startswith("unused "))


def _classes(options: argparse.Namespace) -> tuple[str, ...]:
    if options.num_classes:
        return tuple(f"class {number}" for number in range(options.num_classes))
    if options.classes_file:
        try:
            lines = Path(options.classes_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"convert: --classes-file {options.classes_file}: cannot be read: {error}") from error
        return _names(lines, f"--classes-file {options.classes_file}")
    if options.classes:
        return _names(options.classes.split(","), "--classes")
    if options.origin == "torchvision":
        return coco_classes(options.detector)
    if options.origin == "mmdet":
        return mmdet_classes(options.detector)
    raise UserError("convert: --from detops: expected --classes, --classes-file or --num-classes")


def _names(given: list[str], where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given if name.strip())
    if not names or len(set(names)) < len(names):
        raise UserError(f"convert: {where}: expected names, each once, got {', '.join(given) or 'none'}")
    return names


def _builder_options(options: argparse.Namespace) -> dict[str, str]:
    return {"backbone": options.backbone} if options.backbone else {}


def _epsilons(model: nn.Module) -> dict[FrozenBatchNorm2d, float]:
    return {module: module.eps for module in model.modules() if isinstance(module, FrozenBatchNorm2d)}


@torch.no_grad()
def _restore_eps(module: FrozenBatchNorm2d, eps: float) -> None:
    """Gives batch normalisation the eps that it is built with again; its weight makes up for the difference.

    Some of torchvision's files want another eps, which a state dict does not hold.
    """
    if module.eps != eps:
        variance = module.running_var
        smallest = torch.finfo(variance.dtype).tiny
        module.weight *= ((variance + eps) / (variance + module.eps).clamp(min=smallest)).sqrt()
        module.eps = eps
