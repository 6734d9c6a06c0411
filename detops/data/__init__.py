"""Data sets by a word and a path: what ``--data`` takes.

For detection (``task="detect"``), see :class:`detops.data.dataset.DetectionDataset`:

- ``digits``: embedded, nothing to download: scenes composed of scikit-learn's handwritten digits. Options follow a
  colon: ``digits:size=256,length=1000`` (192 pixels, 2,000 scenes to train on and a fifth of that to validate).
- ``coco:DIR``: DIR/annotations/instances_<split>*.json with the pictures in DIR/<split>*/, DIR/images/<split>*/ or
  DIR/images/: the name of the JSON file says which, as train2017 and val2017 in the original.
- ``coco:IMAGES,ANNOTATIONS.json``: a folder and a file. A tenth is held out: the split "val"; "train" is the rest,
  "all" both.
- ``voc:DIR``: DIR/ImageSets/Main/<split>.txt, DIR/Annotations/*.xml, DIR/JPEGImages/*.

For ``task="classify"`` (:class:`detops.data.folders.FolderClasses`):

- ``digits``: one digit in each image, of 64 pixels.
- ``folder:DIR``: DIR/<split>/<class>/* or, with a tenth of each class held out, DIR/<class>/*.

For ``task="segment"`` (:class:`detops.data.folders.FolderSegments`):

- ``digits``: the scenes, with the class of each pixel.
- ``folder:DIR``: DIR/images/* and DIR/labels/* (or masks/*) of the same names, with lists DIR/<split>.txt, or a tenth
  held out; the names of the classes in DIR/classes.txt, or else two: 0 and the rest.

Opening looks at every annotation and at the header of every picture. What is wrong is in ``problems`` of the data set,
with file and line or record; it says what was left out, and the run goes on. With ``strict`` the first is an error.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from .._errors import UserError
from .problems import Problem as Problem
from .problems import Problems as Problems
from .problems import ReadError as ReadError

if TYPE_CHECKING:
    from .dataset import Dataset, DetectionDataset, Target

FORMS = {
    "detect": {"digits": "digits", "coco": "coco:DIR or coco:IMAGES,ANNOTATIONS.json", "voc": "voc:DIR"},
    "classify": {"digits": "digits", "folder": "folder:DIR"},
    "segment": {"digits": "digits", "folder": "folder:DIR"},
}


@overload
def open(  # noqa: A001
    spec: str,
    split: str,
    *,
    task: Literal["detect"] = "detect",
    classes: Sequence[str] | None = None,
    strict: bool = False,
    seed: int = 0,
) -> "DetectionDataset": ...


@overload
def open(  # noqa: A001
    spec: str,
    split: str,
    *,
    task: str,
    classes: Sequence[str] | None = None,
    strict: bool = False,
    seed: int = 0,
) -> "Dataset": ...


def open(  # noqa: A001
    spec: str,
    split: str,
    *,
    task: str = "detect",
    classes: Sequence[str] | None = None,
    strict: bool = False,
    seed: int = 0,
) -> "Dataset":
    """A data set.

    Args:
        spec: As above.
        split: "train", "val", or what the data set has.
        task: "detect", "classify", "segment".
        classes: Names in the order of their labels, a trained model's say; by default the data set's own. Objects of
            other classes are problems.
        strict: The first problem is an error.
        seed: Of what is held out where a data set has no splits, and of the scenes of digits. Not that of a training:
            every command must hold out the same images.

    Raises:
        UserError: If there is no such data set, or nothing of use in it.
    """
    word, _, where = spec.partition(":")
    if task not in FORMS:
        raise UserError(f"expected task of {', '.join(FORMS)}, got {task!r}")
    if word not in FORMS[task] or (word != "digits" and not where):
        raise UserError(f"expected data as {', '.join(FORMS[task].values())} to {task}, got {spec!r}")
    try:
        return _open(word, where, split, task, classes, strict, seed)
    except ModuleNotFoundError as error:
        raise UserError(f'data sets need {error.name}: pip install "detops[training]"') from error


def training_target(target: "Target") -> "Target":
    """What detectors learn from: "boxes", "labels" and "image_id", without crowds and difficult objects."""
    from .dataset import training_target

    return training_target(target)


def _open(
    word: str, where: str, split: str, task: str, classes: Sequence[str] | None, strict: bool, seed: int
) -> "Dataset":
    from pathlib import Path

    if word == "digits":
        from .digits import open_digits

        return open_digits(where, split, task=task, classes=classes, seed=seed)
    if word == "coco":
        from .coco import open_coco

        return open_coco(where, split, classes=classes, strict=strict, seed=seed)
    if word == "voc":
        from .voc import open_voc

        return open_voc(where, split, classes=classes, strict=strict)
    from .folders import FolderClasses, FolderSegments

    kind = FolderClasses if task == "classify" else FolderSegments
    return kind(Path(where), split, classes=classes, strict=strict, seed=seed)
