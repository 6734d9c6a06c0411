"""What ``detops train`` takes. Imports nothing that takes time: ``detops --help`` reads this."""

import argparse
from typing import Any

Commands = Any  # argparse's own type of a set of commands is private


def add_train(commands: Commands) -> None:
    """``detops train``."""
    parser = commands.add_parser(
        "train",
        help="train a detector, classifier or segmenter",
        description="Trains a model by its paper's recipe. DIR/best.safetensors: the best weights; DIR/last.ckpt: all "
        "that --resume needs; DIR/steps.csv, DIR/epochs.csv: losses and metrics. Ctrl-C stops after the running step "
        "and keeps it. Exit status 130 then.",
    )
    parser.set_defaults(module="detops.commands.train")
    _add_what(parser)
    _add_start(parser.add_argument_group("where it starts"))
    _add_how(parser.add_argument_group("how it is trained (by default as the paper of the detector says)"))
    _add_where(parser.add_argument_group("where it runs"))


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="SPEC", help="digits, coco:DIR, coco:IMAGES,ANNOTATIONS.json, voc:DIR, folder:DIR"
    )
    parser.add_argument("--val-data", metavar="SPEC", help='where the split "val" is, if not in --data')
    parser.add_argument("--task", choices=("detect", "classify", "segment"), help="(detect)")
    parser.add_argument("--detector", metavar="NAME", help="such as retinanet_resnet50_fpn")
    parser.add_argument("--backbone", metavar="NAME", help="any of timm's, or torchvision/NAME")
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another one of the model's builder, a JSON value: representation=256; may come several times",
    )
    parser.add_argument("--neck-channels", type=int, metavar="N", help="of a detector's feature pyramid and head (256)")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="pixels of the shorter side; of both for SSD and classifiers"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (runs/NAME)")
    parser.add_argument("--strict", action="store_true", default=None, help="stop at the first thing wrong in the data")


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--resume", metavar="DIR|FILE", help="go on with a training that was stopped, to the same end")
    group.add_argument(
        "--weights", metavar="FILE", help="start from a model: .safetensors or .ckpt; other classes: a new classifier"
    )
    group.add_argument("--pretrained-backbone", action="store_true", help="fetch the backbone's published weights")
    group.add_argument("--frozen-batch-norm", action="store_true", help="batch normalisation with fixed statistics")
    group.add_argument("--auto-anchors", action="store_true", help="fit the anchors to the data")
    group.add_argument(
        "--finetune",
        metavar="STRATEGY",
        help="all; partial:K, the backbone's first K stages frozen; head, all of it frozen; head-then-all:K, for K "
        "epochs what is new alone (all)",
    )
    group.add_argument(
        "--backbone-lr-factor", type=float, metavar="F", help="the backbone's learning rate over the rest's (1)"
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num-epochs", type=int, metavar="N", help="(12)")
    group.add_argument("--batch-size", type=int, metavar="N", help="images a batch, over all devices (8)")
    group.add_argument("--accumulate", type=int, metavar="N", help="batches a step (1)")
    group.add_argument("--optimizer", choices=("sgd", "adamw"), help="(sgd)")
    group.add_argument("--learning-rate", type=float, metavar="R", help="in proportion to the images of a step")
    group.add_argument("--momentum", type=float, metavar="M", help="of sgd (0.9)")
    group.add_argument("--weight-decay", type=float, metavar="D", help="of weights, not of biases and normalisation")
    group.add_argument("--schedule", choices=("multistep", "cosine", "onecycle", "constant"), help="of learning rates")
    group.add_argument("--warmup-steps", type=int, metavar="N", help="at most a tenth of all steps")
    group.add_argument("--clip-gradients", type=float, metavar="NORM", help="largest norm of all gradients; 0: any (0)")
    group.add_argument("--ema", type=float, metavar="DECAY", help="evaluate and keep averaged weights, with 0.999 say")
    group.add_argument(
        "--augmentation", choices=("none", "flip", "jitter", "ssd", "ssdlite"), help="of a detector's images"
    )
    group.add_argument("--precision", choices=("32", "bf16-mixed", "16-mixed"), help="(32)")
    group.add_argument("--seed", type=int, metavar="N", help="of all that is random (0)")


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--checkpoint-steps", type=int, metavar="N", help="keep the state every N steps too")
    group.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard's events")
    group.add_argument("--num-workers", type=int, metavar="N", help="processes that read images, per device (0)")
    group.add_argument("--device", choices=("cpu", "cuda"), help="by default a GPU where there is one")
    group.add_argument("--devices", type=int, metavar="N", help="how many; torchrun says it itself (1)")
