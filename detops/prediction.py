"""What a model finds in images, and how that is written down."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .detectors import Detector

Record = dict[str, Any]


@torch.inference_mode()
def predict(model: nn.Module, task: str, images: Sequence[Tensor]) -> list[Any]:
    """What a model in evaluation mode says of each image, on the CPU, with labels that start at 0.

    Args:
        model: On any device.
        task: "detect", "classify" or "segment".
        images: Each (3, H, W), floating, values in 0 to 1.

    Returns:
        For each image: detections, a dict of "boxes" (N, 4), corners in pixels, "labels" (N,) and "scores" (N,);
        or the classes' probabilities (C,); or the classes of the pixels, (H, W) uint8.
    """
    device = next(model.parameters()).device
    found = model([image.to(device) for image in images])
    if task == "detect":
        start = cast(Detector, model).head.labels.start
        return [
            {"boxes": one["boxes"].cpu(), "labels": one["labels"].cpu() - start, "scores": one["scores"].cpu()}
            for one in found
        ]
    if task == "classify":
        return [scores.float().cpu() for scores in found]
    return [(scores.argmax(dim=0) if scores.dim() == 3 else scores).to(torch.uint8).cpu() for scores in found]


def above(detections: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Detections whose score reaches a threshold."""
    keep = detections["scores"] >= threshold
    return {name: values[keep] for name, values in detections.items()}


def records(task: str, found: Any, classes: Sequence[str]) -> list[Record]:
    """What was found in an image, as JSON has it; the image is not named yet.

    Detections are COCO's results, "bbox" as left, top, width and height, with the name of the class beside its number.
    """
    if task == "detect":
        boxes = torch.cat([found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]], dim=1)
        rows = zip(found["labels"].tolist(), boxes.tolist(), found["scores"].tolist(), strict=True)
        return [
            {
                "category_id": label,
                "category_name": classes[label],
                "bbox": [round(value, 2) for value in box],
                "score": round(score, 5),
            }
            for label, box, score in rows
        ]
    if task == "classify":
        best = int(found.argmax())
        shares = {name: round(share, 5) for name, share in zip(classes, found.tolist(), strict=True)}
        return [{"category_id": best, "category_name": classes[best], "score": shares[classes[best]], "scores": shares}]
    numbers, counts = np.unique(found.numpy(), return_counts=True)
    pixels = {classes[number]: count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}
    return [{"pixels": pixels}]


def draw(task: str, image: Tensor, found: Any, classes: Sequence[str]) -> Any:
    """A picture (``PIL.Image.Image``) of an image, (3, H, W) uint8, with what was found in it."""
    from . import drawing

    if task == "detect":
        return drawing.draw_detections(image, found["boxes"], found["labels"], found["scores"], classes)
    if task == "classify":
        best = int(found.argmax())
        return drawing.draw_class(image, f"{classes[best]} {float(found[best]):.0%}")
    return drawing.draw_segmentation(image, found, classes)


def output_names(files: Sequence[Path], extensions: Iterable[str]) -> list[Path]:
    """A relative path for what is made of each file, no two the same whatever the case of their letters.

    The folders below the deepest one that all files share are kept. A file whose extension is none of ``extensions``,
    the first of which is the usual one, gets that behind its own.
    """
    known = [*extensions]
    whole = [file.resolve() for file in files]
    root = _shared_folder(whole)
    taken: set[str] = set()
    names = []
    for file in whole:
        name = file.relative_to(root)
        if name.suffix.lower() not in known:
            name = name.with_name(name.name + known[0])
        plain, number = name, 2
        while str(name).lower() in taken:
            name, number = plain.with_name(f"{plain.stem}-{number}{plain.suffix}"), number + 1
        taken.add(str(name).lower())
        names.append(name)
    return names


def _shared_folder(files: Sequence[Path]) -> Path:
    root = files[0].parent
    while not all(file.is_relative_to(root) for file in files):
        root = root.parent
    return root
