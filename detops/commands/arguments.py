"""What the commands take. Imports nothing that takes time: ``detops --help`` reads this."""

import argparse
from typing import Any

Commands = Any  # argparse's own type of a set of commands is private


def add_evaluate(commands: Commands) -> None:
    """``detops evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on a data set",
        description="Measures a model on a data set: COCO's or Pascal VOC's average precision of a detector, accuracy "
        "of a classifier, IoU of a segmenter. Exit status 1 if an image could not be read.",
    )
    parser.set_defaults(module="detops.commands.evaluate")
    _add_model(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="digits, coco:DIR, coco:IMAGES,ANNOTATIONS.json, voc:DIR, folder:DIR",
    )
    parser.add_argument("--split", default="val", help="part of the data (val)")
    parser.add_argument(
        "--metric",
        choices=("coco", "voc07", "voc12"),
        help="of detectors: COCO's AP (the default), VOC's of 11 points or VOC's area below the curve",
    )
    parser.add_argument("--out", metavar="DIR", help="write metrics.json into this folder")
    parser.add_argument("--plots", action="store_true", help="with --out: plots, and all on one page, report.html")
    parser.add_argument("--num-workers", type=_count, default=0, metavar="N", help="processes that read images (0)")
    parser.add_argument("--strict", action="store_true", help="stop at the first thing wrong with the data")


def add_predict(commands: Commands) -> None:
    """``detops predict``."""
    parser = commands.add_parser(
        "predict",
        help="find objects in images, and draw them",
        description="Writes what a model finds. DIR/predictions.json: a list in COCO's format of results, file_name "
        "and category_name beside the numbers, categories numbered from 0. DIR/images.json: a list of id, file_name, "
        "height and width of every image, or its error. DIR/pictures: the images with what was found. DIR/labels: "
        "of a segmenter, class numbers as PNG. Exit status 1 if an image could not be read.",
    )
    parser.set_defaults(module="detops.commands.predict")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, patterns such as 'photos/*.jpg', or the embedded digits",
    )
    _add_model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--score-threshold", type=_share, default=0.5, metavar="S", help="least score of a detection, 0 to 1 (0.5)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="JSON alone, and the label maps of a segmenter")


def add_convert(commands: Commands) -> None:
    """``detops convert``."""
    parser = commands.add_parser(
        "convert",
        help="weights published elsewhere into a model's file",
        description="Reads weights published elsewhere and writes them with what is needed to build the model.",
    )
    parser.set_defaults(module="detops.commands.convert")
    parser.add_argument("source", metavar="SOURCE", help="weights: a file of torch.save or of safetensors")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=("torchvision", "mmdet", "detops"),
        default="torchvision",
        help="whose names (torchvision)",
    )
    parser.add_argument("--detector", required=True, metavar="NAME", help="such as fasterrcnn_resnet50_fpn")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--classes", metavar="A,B,…", help="names, without a background; COCO's by default")
    classes.add_argument("--classes-file", metavar="FILE", help="the same, one a line")
    classes.add_argument("--num-classes", type=_positive, metavar="N", help="as many classes without a name")
    parser.add_argument("--backbone", metavar="NAME", help="if not the detector's own")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors", help="what to write")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a model: .safetensors, or a training's checkpoint, .ckpt"
    )
    parser.add_argument("--batch-size", type=_positive, default=4, metavar="N", help="images at a time (4)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="by default a GPU where there is one")


def _count(text: str) -> int:
    return _whole(text, 0)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value
