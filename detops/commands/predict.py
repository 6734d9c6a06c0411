"""``detops predict``: what a model finds in picture files, written into a folder.

- predictions.json: a list in COCO's format of results, with two names beside the numbers. Of a detector a line for each
  detection: ``{"image_id": 1, "file_name": "in/a.jpg", "category_id": 0, "category_name": "cat", "bbox": [left, top,
  width, height], "score": 0.93}``; pixels count as the file stores them, categories from 0 as in the model's file. Of a
  classifier a line for each image, with the "scores" of all classes; of a segmenter one with the number of "pixels" of
  each class and the file of "labels".
- images.json: a list of all images: ``{"id": 1, "file_name": "in/a.jpg", "height": 480, "width": 640}``; where a file
  could not be read, an "error" in place of the size.
- pictures/: the images with what was found drawn in.
- labels/: of a segmenter, PNG files whose pixels are class numbers.
- scenes/: the first images to validate with of the embedded data, if these were asked for.
"""

import argparse
import glob
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..model_file import ModelConfig, replacing
from ..prediction import Record, above, draw, output_names, predict, records
from . import parts

if TYPE_CHECKING:
    from PIL import Image

_EMBEDDED, _NUM_SCENES = "digits", 16
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    device = parts.device(options.device, "predict")
    model, config = parts.load_model(options.weights, device)
    folder = parts.output_folder(options.out, "predict")
    files = find_images([_drawn(image, folder, config.task) for image in options.images], folder)
    writer = Writer(folder, files, config, not options.no_pictures)
    try:
        with parts.progress("predicting", len(files)) as advance:
            predict_files(model, files, writer, options.batch_size, options.score_threshold, advance)
    finally:
        writer.close()  # what is done is kept, after Ctrl-C too
    print(writer.summary())
    for error in writer.errors:
        print(f"detops: {error}", file=sys.stderr)
    return 1 if writer.errors else 0


def _drawn(argument: str, folder: Path, task: str) -> str:
    """A pattern of scenes of the embedded data if these were asked for, else the argument itself."""
    if argument.partition(":")[0] != _EMBEDDED or Path(argument).exists():
        return argument
    from .. import data
    from ..drawing import picture

    scenes = data.open(argument, "val", task=task)
    for i in range(min(_NUM_SCENES, len(scenes))):
        _save(folder / "scenes" / f"{i:02}.png", picture(scenes[i][0]))
    return glob.escape(str(folder / "scenes")) + "/*.png"


def find_images(arguments: Sequence[str], out: Path) -> list[Path]:
    """The files that arguments stand for, each once: files, all pictures in and below folders, or patterns.

    Args:
        arguments: As the user wrote them.
        out: Where results go; folders are searched without it.

    Raises:
        UserError: If there is nothing that an argument stands for.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        path = Path(argument)
        files = _pictures_below(path, out.resolve()) if path.is_dir() else [path] if path.exists() else _fitting(path)
        if not files:
            raise UserError(f"predict: expected an image, a folder of images or a pattern, found none at {argument}")
        for file in files:
            found.setdefault(file.resolve(), file)
    return [*found.values()]


def _pictures_below(folder: Path, out: Path) -> list[Path]:
    from ..data.pictures import EXTENSIONS

    files = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return sorted(path for path in files if not path.name.startswith(".") and not path.resolve().is_relative_to(out))


def _fitting(pattern: Path) -> list[Path]:
    return sorted(path for path in map(Path, glob.glob(str(pattern), recursive=True)) if path.is_file())  # noqa: PTH207


def predict_files(
    model: nn.Module,
    files: Sequence[Path],
    writer: "Writer",
    batch_size: int,
    score_threshold: float,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes what a model finds in files; those that cannot be read become errors of the writer.

    Args:
        model: In evaluation mode.
        files: Pictures.
        writer: Made for these files.
        batch_size: Images at a time.
        score_threshold: Least score of a detection.
        advance: Told how many images are done.
    """
    from ..data import ReadError, pictures, transforms

    task = writer.config.task
    transform = transforms.evaluation(task, size=writer.config.options.get("size"))
    for first in range(0, len(files), batch_size):
        numbers, images = [], []
        for number in range(first, min(first + batch_size, len(files))):
            try:
                images.append(pictures.read(files[number]))
                numbers.append(number)
            except ReadError as error:
                writer.fail(number, error.problem.what)
        if images:
            found = predict(model, task, [transform(image, {})[0] for image in images])
            for number, image, one in zip(numbers, images, found, strict=True):
                writer.add(number, image, above(one, score_threshold) if task == "detect" else one)
        advance(min(batch_size, len(files) - first))


class Writer:
    """Writes predictions of files into a folder: predictions.json, images.json, pictures/ and, of segmenters, labels/.

    Args:
        folder: Where to.
        files: Whose predictions these will be.
        config: Of the model.
        with_pictures: Whether to draw.

    Raises:
        UserError: If a picture would take the place of one of the files.
    """

    def __init__(self, folder: Path, files: Sequence[Path], config: ModelConfig, with_pictures: bool) -> None:
        self.folder, self.files, self.config = folder, files, config
        self.errors: list[str] = []
        self._predictions: list[Record] = []
        self._images: list[Record] = []
        self._pictures = [folder / "pictures" / name for name in output_names(files, _FORMATS)] if with_pictures else []
        self._labels: list[Path] = []
        if config.task == "segment":
            self._labels = [folder / "labels" / name for name in output_names(files, [".png"])]
        inputs = {file.resolve() for file in files}
        for output in (*self._pictures, *self._labels):
            if output.resolve() in inputs:
                raise UserError(f"predict: --out {folder}: expected another folder, {output} is one of the images")

    def add(self, number: int, image: Tensor, found: Any) -> None:
        """Takes what was found in a file, by its number, and writes its picture.

        Args:
            number: Of the file.
            image: (3, H, W) uint8.
            found: As :func:`detops.prediction.predict` gives it.
        """
        task, classes = self.config.task, self.config.classes
        named = {"image_id": number + 1, "file_name": str(self.files[number])}
        _, height, width = image.shape
        self._images.append({"id": number + 1, "file_name": named["file_name"], "height": height, "width": width})
        if self._labels:
            from ..drawing import label_map

            _save(self._labels[number], label_map(found))
            named["labels"] = str(self._labels[number].relative_to(self.folder))
        self._predictions += [{**named, **record} for record in records(task, found, classes)]
        if self._pictures:
            _save(self._pictures[number], draw(task, image.as_subclass(torch.Tensor), found, classes))

    def fail(self, number: int, what: str) -> None:
        """Notes that a file cannot be read."""
        self._images.append({"id": number + 1, "file_name": str(self.files[number]), "error": what})
        self.errors.append(f"{self.files[number]}: {what}")

    def close(self) -> None:
        """Writes the JSON files."""
        images = sorted(self._images, key=lambda image: image["id"])
        for name, rows in (("predictions.json", self._predictions), ("images.json", images)):
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            with replacing(self.folder / name) as temporary:
                temporary.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")

    def summary(self) -> str:
        """What there is, and where."""
        done = len(self._images) - len(self.errors)
        objects = f"{len(self._predictions)} objects in " if self.config.task == "detect" else ""
        failed = f", {len(self.errors)} could not be read" if self.errors else ""
        pictures = f", {self.folder / 'pictures'}" if self._pictures and done else ""
        return f"{objects}{done} image{'s' * (done != 1)}{failed}: {self.folder / 'predictions.json'}{pictures}"


def _save(path: Path, picture: "Image.Image") -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format=_FORMATS[path.suffix.lower()], quality=92)
