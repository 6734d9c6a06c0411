"""``detops evaluate``."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._errors import UserError
from ..evaluation import (
    ClassificationEvaluator,
    CocoEvaluator,
    Metrics,
    SegmentationEvaluator,
    VocEvaluator,
    report,
)
from ..evaluation.metrics import shown
from ..model_file import ModelConfig
from ..prediction import predict
from . import parts

if TYPE_CHECKING:
    from ..data.dataset import Dataset

Batches = Iterable[tuple[Sequence[Tensor], Sequence[Any]]]


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    _check(options)
    device = parts.device(options.device, "evaluate")
    model, config = parts.load_model(options.weights, device)
    evaluator = _evaluator(config, options.metric)
    dataset, batches = _open(options, config)
    folder = parts.output_folder(options.out, "evaluate") if options.out else None
    with parts.progress("evaluating", len(dataset)) as advance:
        seen = evaluate(model, config.task, batches, evaluator, advance)
    metrics = evaluator.compute()
    facts = {
        "model": f"{config.name} ({options.weights})",
        "data": f"{options.data}, {options.split}",
        "images": str(seen),
    }
    if dataset.problems:
        print(dataset.problems.summary(), file=sys.stderr)
    try:  # first the files: whoever reads what is shown may have gone
        files = report.write(folder, metrics, facts, with_plots=options.plots) if folder else []
    finally:
        _show(metrics)
    for file in files:
        print(f"wrote {file}")
    return 0 if seen == len(dataset) and not dataset.problems.num_unreadable else 1


def evaluate(
    model: nn.Module, task: str, batches: Batches, evaluator: Any, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Counts what a model says of every image.

    Args:
        model: In evaluation mode.
        task: "detect", "classify" or "segment".
        batches: Images (3, H, W), values in 0 to 1, and what is true of them.
        evaluator: Of the task.
        advance: Told how many images are done.

    Returns:
        The number of images.
    """
    seen = 0
    for images, targets in batches:
        for target, found in zip(targets, predict(model, task, images), strict=True):
            evaluator.update(target, found)
        seen += len(images)
        advance(len(images))
    return seen


def _check(options: argparse.Namespace) -> None:
    if options.plots and not options.out:
        raise UserError("evaluate: --plots: expected --out DIR, where to write them")
    if options.plots and importlib.util.find_spec("matplotlib") is None:  # said now, not after the evaluation
        raise UserError('evaluate: --plots needs matplotlib: pip install "detops[training]"')


def _evaluator(config: ModelConfig, metric: str | None) -> Any:
    if config.task != "detect":
        if metric:
            raise UserError(f"evaluate: --metric {metric}: expected a detector, got a model to {config.task}")
        return {"classify": ClassificationEvaluator, "segment": SegmentationEvaluator}[config.task](config.classes)
    if metric in (None, "coco"):
        return CocoEvaluator(config.classes)
    return VocEvaluator(config.classes, eleven_points=metric == "voc07")


def _open(options: argparse.Namespace, config: ModelConfig) -> tuple["Dataset", Batches]:
    from .. import data

    dataset = data.open(options.data, options.split, task=config.task, classes=config.classes, strict=options.strict)
    from ..data import loading, transforms  # after open has said what is missing

    transform = transforms.evaluation(config.task, size=config.options.get("size"))
    batches = loading.loader(
        dataset,
        transform,
        batch_size=options.batch_size,
        seed=0,
        training=False,
        num_workers=options.num_workers,
    )
    return dataset, batches


def _show(metrics: Metrics) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(report.rich_table(metrics))
    print("  ".join(f"{name} {shown(value)}" for name, value in report.overall(metrics).items()))
