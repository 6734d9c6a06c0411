"""``detops train``."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from torch import nn

from .. import data, detectors
from .._errors import UserError
from ..evaluation import report
from ..model_file import ModelConfig
from ..training.checkpoints import BEST, LAST, Checkpoint, load_model
from ..training.finetune import Strategy, load_weights
from ..training.options import TrainingOptions
from . import parts

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.loading import Loader
    from ..training.run import Outcome

_OF_THE_MACHINE = ("num_workers", "device", "devices")  # what may differ when a training goes on
_OPTIONS = [field.name for field in dataclasses.fields(TrainingOptions)]
_NOT_WITH_RESUME = (
    "task", "detector", "backbone", "neck_channels", "option", "weights", "pretrained_backbone", "frozen_batch_norm",
    "auto_anchors", "out",
)  # fmt: skip
_OPTIONS_OF_THEIR_OWN = ("backbone", "neck_channels", "weights", "pretrained_backbone", "frozen_batch_norm")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training that can begin.

    Attributes:
        config: Of the model.
        model: To train.
        options: Of the training.
        folder: Where it writes.
        new: Names of the parameters that learn first.
        resume: What it goes on from.
    """

    config: ModelConfig
    model: nn.Module
    options: TrainingOptions
    folder: Path
    new: tuple[str, ...] = ()
    resume: Checkpoint | None = None


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    try:
        import rich
        from lightning.pytorch.utilities import rank_zero_only

        from ..training import run, tasks
    except ImportError as error:
        raise UserError(f'train: training needs {error.name}: pip install "detops[training]"') from error
    say = rank_zero_only(partial(print, flush=True))
    complain = rank_zero_only(partial(print, file=sys.stderr, flush=True))

    checkpoint = _checkpoint(options) if options.resume else None
    wanted = checkpoint.options if checkpoint else None
    task = checkpoint.config.task if checkpoint else options.task or "detect"
    spec, val_spec, strict = (wanted.data, wanted.val_data, wanted.strict) if wanted else _data(options)
    classes = checkpoint.config.classes if checkpoint else None
    training = data.open(spec, "train", task=task, strict=strict, classes=classes)
    validation = data.open(val_spec, "val", task=task, strict=strict, classes=training.classes)
    for dataset in (training, validation):
        if dataset.problems:
            complain(dataset.problems.summary())
    known = len(training.problems) + len(validation.problems)

    plan = _resumed(options, checkpoint) if checkpoint else _new(options, task, training, say)
    say(_summary(plan, training, validation))
    loaders = _loaders(plan, training, validation)
    try:
        outcome = run.fit(
            tasks.of(task),
            plan.model,
            plan.config,
            plan.options,
            *loaders,
            plan.folder,
            new=plan.new,
            resume=plan.resume,
        )
    finally:  # whatever ended it
        for dataset in (training, validation) if len(training.problems) + len(validation.problems) > known else ():
            complain(dataset.problems.summary())
    return _conclude(plan, outcome, say, rank_zero_only(rich.print))


def _data(options: argparse.Namespace) -> tuple[str, str, bool]:
    if not options.data:
        raise UserError("train: expected --data SPEC, or --resume DIR")
    return options.data, options.val_data or options.data, bool(options.strict)


def _checkpoint(options: argparse.Namespace) -> Checkpoint:
    """What to go on from, on this machine.

    Raises:
        UserError: If it is not there, or an option is given that would make it another training.
    """
    for name in (*_NOT_WITH_RESUME, *_OPTIONS):
        if name not in _OF_THE_MACHINE and _given(options, name):
            raise UserError(
                f"train: --{name.replace('_', '-')}: expected no change to a training that --resume goes on"
            )
    checkpoint = Checkpoint.load(options.resume)
    of_the_machine = {name: value for name in _OF_THE_MACHINE if (value := getattr(options, name)) is not None}
    return dataclasses.replace(checkpoint, options=dataclasses.replace(checkpoint.options, **of_the_machine))


def _given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False and value != []


def _resumed(options: argparse.Namespace, checkpoint: Checkpoint) -> Plan:
    from ..training import models

    folder = Path(options.resume) if Path(options.resume).is_dir() else Path(options.resume).parent
    strategy = Strategy.parse(checkpoint.options.finetune)
    model = models.build(checkpoint.config, strategy, checkpoint.options.seed)
    return Plan(checkpoint.config, model, checkpoint.options, folder, checkpoint.new, checkpoint)


def _new(options: argparse.Namespace, task: str, training: "Dataset", say: Callable[[str], None]) -> Plan:
    from ..training import models

    source = load_model(options.weights) if options.weights else None
    name = _model_name(options, task, source[1] if source else None)
    wanted = _training_options(options, task, name)
    folder = parts.output_folder(options.out or f"runs/{name}", "train")
    if (folder / LAST).exists():
        raise UserError(f"train: --out {folder}: expected a new folder, got one with a training: --resume {folder}")
    if (folder / BEST).exists():
        raise UserError(f"train: --out {folder}: expected a new folder, got one with a {BEST}")
    config = ModelConfig(task, name, training.classes, _builder_options(options, task, name, source))
    strategy = Strategy.parse(wanted.finetune)
    if options.auto_anchors:
        if task != "detect":
            raise UserError(f"train: --auto-anchors: expected --task detect, got {task}")
        detection: Any = training
        config, said = models.with_fitted_anchors(config, detection.box_sizes(), wanted.seed)
        say(said)
    model = models.build(config, strategy, wanted.seed)
    if options.pretrained_backbone:
        models.load_published_backbone(model, config)
    if source is None:
        return Plan(config, model, wanted, folder)
    new = load_weights(model, config, *source)
    say(f"weights: {options.weights}; new: {_layers(new)}" if new else f"weights: {options.weights}, all of them")
    return Plan(config, model, wanted, folder, tuple(new))


def _model_name(options: argparse.Namespace, task: str, source: ModelConfig | None) -> str:
    """Of the detector, or of the other tasks' backbone; by default that of the weights to start from."""
    if task != "detect" and options.detector:
        raise UserError(f"train: --detector {options.detector}: expected --backbone with --task {task}")
    given = options.detector if task == "detect" else options.backbone
    name = given or (source.name if source and source.task == task else None)
    if not name:
        raise UserError(f"train: expected --{'detector' if task == 'detect' else 'backbone'} NAME")
    if task == "detect" and name not in detectors.names():
        raise UserError(f"train: --detector {name}: expected one of {', '.join(detectors.names())}")
    return str(name)


def _training_options(options: argparse.Namespace, task: str, name: str) -> TrainingOptions:
    from ..data import transforms

    if task != "detect" and options.augmentation:
        raise UserError(f"train: --augmentation {options.augmentation}: expected --task detect, got {task}")
    given = {field: getattr(options, field) for field in _OPTIONS}
    given["device"] = parts.device(options.device, "train").type
    given["augmentation"] = options.augmentation or transforms.augmentation_of(name)
    return TrainingOptions.for_model(task, name, **given)


def _builder_options(
    options: argparse.Namespace, task: str, name: str, source: tuple[nn.Module, ModelConfig] | None
) -> dict[str, Any]:
    """For the model; those of the weights to start from where nothing else is said."""
    found = dict(source[1].options) if source and (source[1].task, source[1].name) == (task, name) else {}
    if options.image_size:
        from ..training import models

        found |= models.size_options(task, name, options.image_size)
    if options.backbone and task == "detect":
        found["backbone"] = options.backbone
    found |= dict(map(_named_value, options.option))
    if options.neck_channels is not None:
        found["neck_channels"] = options.neck_channels
    if options.frozen_batch_norm:
        found["frozen_batch_norm"] = True
    return found


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise UserError(f"train: --option: expected NAME=VALUE, got {text}")
    if name in _OPTIONS_OF_THEIR_OWN:
        raise UserError(f"train: --option {name}: expected --{name.replace('_', '-')} instead")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        raise UserError(f"train: --option {name}: expected a JSON value, got {value}") from None


def _loaders(
    plan: Plan, training: "Dataset", validation: "Dataset"
) -> tuple[Callable[[int, int], "Loader"], Callable[[int, int], "Loader"]]:
    """What makes the loaders of a process."""
    from ..data import loading, transforms

    options, task = plan.options, plan.config.task
    size = plan.config.options.get("size") if task != "detect" else None
    change = transforms.training(task, size=size, augmentation=options.augmentation, mirrorable=training.mirrorable)
    keep = transforms.evaluation(task, size=size)

    def make(train: bool, rank: int, world_size: int) -> "Loader":
        return loading.loader(
            training if train else validation,
            change if train else keep,
            batch_size=max(1, options.batch_size // world_size),
            seed=options.seed,
            training=train,
            rank=rank,
            world_size=world_size,
            num_workers=options.num_workers,
        )

    return partial(make, True), partial(make, False)


def _stopped(folder: Path) -> str:
    """What an interrupted training leaves: after a second Ctrl-C not the last step, maybe none."""
    if not (folder / LAST).exists():
        return "stopped before anything was kept"
    kept = Checkpoint.load(folder).progress
    return f"stopped: epoch {kept.epoch + 1}, batch {kept.batch}; to go on: detops train --resume {quote(str(folder))}"


def _summary(plan: Plan, training: "Dataset", validation: "Dataset") -> str:
    millions = sum(parameter.numel() for parameter in plan.model.parameters()) / 1e6
    boxes = ""
    if plan.config.task == "detect":
        detection: Any = training
        boxes = f" with {len(detection.box_sizes()):,} boxes"
    options = plan.options
    device = f"{options.devices} x {options.device}" if options.devices > 1 else f"on {options.device}"
    text = (
        f"{plan.config.name}: {millions:.1f} million parameters; {len(training):,} images{boxes}"
        f" of {len(plan.config.classes)} classes, {len(validation):,} to evaluate; {options.num_epochs} epochs,"
        f" {options.optimizer} at {options.learning_rate:g}, batches of {options.batch_size}, {device}; {plan.folder}"
    )
    if plan.resume is None:
        return text
    progress = plan.resume.progress
    if progress.epoch == options.num_epochs and progress.evaluated:
        return f"{text}\nat its end already"
    return f"{text}\nresumed in epoch {progress.epoch + 1} after {progress.batch} batches"


def _layers(names: list[str]) -> str:
    """Modules that parameters belong to."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return ", ".join(modules[:6]) + (f" and {len(modules) - 6} more" if len(modules) > 6 else "")


def _conclude(plan: Plan, outcome: "Outcome", say: Callable[[str], None], show: Callable[[Any], None]) -> int:
    progress, folder = outcome.progress, plan.folder
    if outcome.interrupted:
        say(_stopped(folder))
        return 130
    if outcome.metrics is not None:
        show(report.rich_table(outcome.metrics))
    say(f"best {progress.metric} {progress.best:.4f} after epoch {progress.best_epoch + 1}: {folder / BEST}")
    weights = quote(str(folder / BEST))
    say(f"detops evaluate --weights {weights} --data {quote(plan.options.val_data)}")
    say(f"detops predict IMAGE --weights {weights} --out predictions")
    return 0
