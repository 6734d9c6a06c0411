"""Trains a tiny RetinaNet into a folder: as many processes as the one who starts this makes."""

import sys
from functools import partial
from pathlib import Path

import torch
from rectangles import Finding, Rectangles, training_loader, validation_loader

from detops.model_file import ModelConfig
from detops.training.options import TrainingOptions
from detops.training.run import Outcome, fit

RETINANET = ModelConfig(
    "detect",
    "retinanet_resnet50_fpn",
    Rectangles.classes,
    {"backbone": "resnet10t", "min_size": 64, "max_size": 64, "frozen_batch_norm": True},
)


def train(folder: Path, devices: int = 1, finetune: str = "head-then-all:1") -> Outcome:
    torch.set_num_threads(1)
    options = TrainingOptions.for_model(
        "detect", RETINANET.name, data="", batch_size=4, num_epochs=2, device="cpu", devices=devices, finetune=finetune
    )
    torch.manual_seed(0)
    training = partial(training_loader, Rectangles(4), 4)
    validation = partial(validation_loader, Rectangles(3, first=1000))
    return fit(Finding(), RETINANET.build(), RETINANET, options, training, validation, folder)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
