"""Trains one network twice: under detops' heads and under torchvision's, from the same weights, on the same batches.

``python -m detops.benchmarks.train_beside_torchvision --data SPEC --out DIR`` writes DIR/<side>/steps.csv and
epochs.csv of both, and DIR/curves.png. RetinaNet draws no random numbers, so its losses agree until rounding has grown;
Faster R-CNN draws other anchors and regions for its losses.
"""

import argparse
import csv
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import detops
from detops import data, detectors
from detops.data import loading, transforms
from detops.detectors import Detector, convert
from detops.levels import as_levels
from detops.model_file import ModelConfig, replacing
from detops.training import run, tasks
from detops.training.options import TrainingOptions

SIDES = ("detops", "torchvision")


class Features(nn.Module):
    """A detector's backbone and neck as torchvision's detectors want them, with torchvision's names."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.body, self.fpn = detector.backbone, as_levels("neck", detector.neck)
        self.out_channels, self.levels = self.fpn.channels[0], len(self.fpn.strides)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict((str(i), level) for i, level in enumerate(self.fpn(self.body(x))))


class Theirs(nn.Module):
    """torchvision's detector, called as ours is."""

    def __init__(self, model: nn.Module, labels: range) -> None:
        super().__init__()
        self.model = model
        self.head = SimpleNamespace(labels=labels)

    def forward(self, images: Any, targets: Any = None) -> Any:
        return self.model(list(images), targets)


def theirs(ours: Detector, name: str, num_classes: int, options: dict[str, Any]) -> Theirs:
    """A detector of torchvision's with the same network and copies of its weights."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.retinanet import RetinaNetHead
    from torchvision.ops import MultiScaleRoIAlign

    twin = detectors.build(name, num_classes=num_classes, **options)
    features = Features(twin)
    levels = features.levels
    size = {"min_size": options["min_size"], "max_size": options["max_size"]}
    sides = [32 * 2**i for i in range(levels)]
    ratios = ((0.5, 1.0, 2.0),) * levels
    model: nn.Module
    if name == "fasterrcnn_resnet50_fpn":
        representation = options.get("representation", 1024)
        model = detection.FasterRCNN(
            features,
            rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), ratios),
            box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(levels - 1)], 7, 2),
            box_head=TwoMLPHead(features.out_channels * 7**2, representation),
            box_predictor=FastRCNNPredictor(representation, num_classes),
            box_batch_size_per_image=options.get("box_batch_size_per_image", 512),
            **size,
        )
    elif name == "retinanet_resnet50_fpn_v2":
        scales = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides)
        head = RetinaNetHead(features.out_channels, 9, num_classes, norm_layer=partial(nn.GroupNorm, 32))
        head.regression_head._loss_type = "giou"
        model = detection.RetinaNet(
            features, num_classes, anchor_generator=AnchorGenerator(scales, ratios), head=head, **size
        )
    else:
        raise ValueError(f"expected fasterrcnn_resnet50_fpn or retinanet_resnet50_fpn_v2, got {name!r}")
    state = ours.state_dict()
    names = {key: torch.empty(0) for key in model.state_dict()}
    for key in names:
        (own,) = convert.renamed_as_ours({key: names[key]}, ours)
        names[key] = state[own]
    model.load_state_dict(names)
    return Theirs(model, ours.head.labels)


def main() -> None:
    """Trains both and draws their curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, metavar="SPEC")
    parser.add_argument("--detector", default="retinanet_resnet50_fpn_v2")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--neck-channels", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=240)
    parser.add_argument("--num-epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()

    training, validation = (data.open(arguments.data, split) for split in ("train", "val"))
    options: dict[str, Any] = {
        "backbone": arguments.backbone,
        "neck_channels": arguments.neck_channels,
        "min_size": arguments.image_size,
        "max_size": 2 * arguments.image_size,
    }
    if arguments.detector.startswith("faster"):
        options |= {"representation": 256, "box_batch_size_per_image": 128}
    config = ModelConfig("detect", arguments.detector, training.classes, options)
    torch.manual_seed(0)
    ours = config.build()
    assert isinstance(ours, Detector)
    num_classes = detectors.num_classes(arguments.detector, len(training.classes))
    models = {"detops": ours, "torchvision": theirs(ours, arguments.detector, num_classes, options)}
    recipe = TrainingOptions.for_model(
        "detect",
        arguments.detector,
        data=arguments.data,
        optimizer="adamw",
        schedule="onecycle",
        learning_rate=arguments.learning_rate,
        num_epochs=arguments.num_epochs,
        batch_size=arguments.batch_size,
        device="cpu",
    )
    change, keep = transforms.training("detect", mirrorable=training.mirrorable), transforms.evaluation("detect")

    def make(train: bool, rank: int, world_size: int) -> loading.Loader:
        dataset, transform = (training, change) if train else (validation, keep)
        return loading.loader(dataset, transform, batch_size=recipe.batch_size, seed=0, training=train)

    seconds = {}
    for side in SIDES:
        print(f"::: {side}")
        begin = time.process_time()
        loaders = partial(make, True), partial(make, False)
        run.fit(tasks.of("detect"), models[side], config, recipe, *loaders, arguments.out / side)
        seconds[side] = time.process_time() - begin
        print(f"::: {side}: {seconds[side]:.0f} s of CPU time")
    draw(arguments.out, seconds)


def draw(folder: Path, seconds: dict[str, float]) -> None:
    """Losses by step and AP50 by epoch, of both sides."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for side, style in zip(SIDES, ("-", "--"), strict=True):
        with (folder / side / "steps.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        with (folder / side / "epochs.csv").open() as file:
            found = [float(row["AP50"]) for row in csv.DictReader(file)]
        left.plot(losses, style, label=side, linewidth=1)
        right.plot(range(1, len(found) + 1), found, style, marker="o", label=f"{side}, {seconds[side]:.0f} CPU seconds")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.set(xlabel="epoch", ylabel="AP50", ylim=(0, 1))
    left.legend()
    right.legend()
    figure.suptitle(f"detops {detops.__version__} and torchvision: one network, the same batches")
    with replacing(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=130)


if __name__ == "__main__":
    main()
