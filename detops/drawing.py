"""Pictures of what a model found: boxes with their class and score, and class maps laid over the image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._errors import UserError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

Colour = tuple[int, int, int]

# Okabe and Ito's colours and Tol's muted ones, which colour-blind readers tell apart; a class keeps its colour.
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (136, 34, 85),
    (153, 153, 51),
    (51, 34, 136),
    (170, 68, 153),
    (68, 170, 153),
)
_UNNAMED = 255  # pixels of no class


def colour(label: int) -> Colour:
    """Of a class, by its number."""
    return PALETTE[label % len(PALETTE)]


def draw_detections(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None,
    classes: Sequence[str],
    masks: Tensor | None = None,
) -> "Image.Image":
    """An image with its detections, the best on top.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4), corners in pixels.
        labels: (N,), numbers of ``classes``.
        scores: (N,) in 0 to 1; None: without, for ground truth.
        classes: Names.
        masks: (N, H, W) bool: tinted.

    Raises:
        UserError: If Pillow is not installed.
    """
    pixels = _pixels(image)
    order = range(len(boxes)) if scores is None else torch.argsort(scores, stable=True).tolist()
    if masks is not None:
        for index in order:
            _tint(pixels, masks[index].cpu().numpy().astype(bool), colour(int(labels[index])))
    picture, draw = _canvas(pixels)
    width = _line_width(picture.size)
    font = _font(picture.size)
    corners = boxes.detach().float().cpu().tolist()
    for index in order:
        _draw_box(draw, corners[index], colour(int(labels[index])), width)
    for index in order:  # tags after all boxes, so that no line crosses a name
        label = int(labels[index])
        text = classes[label] if scores is None else f"{classes[label]} {float(scores[index]):.0%}"
        _draw_tag(draw, picture.size, corners[index], text, colour(label), width, font)
    return picture


def draw_segmentation(image: Tensor, labels: Tensor, classes: Sequence[str]) -> "Image.Image":
    """An image tinted by the classes of its pixels, with the names of those that occur.

    Args:
        image: (3, H, W) uint8.
        labels: (H, W), numbers of ``classes``; class 0, by custom the background, is left as it is, and so is 255.
        classes: Names.

    Raises:
        UserError: If Pillow is not installed.
    """
    pixels, numbers = _pixels(image), labels.cpu().numpy()
    found = [int(number) for number in np.unique(numbers) if 0 < number < min(len(classes), _UNNAMED)]
    for number in found:
        _tint(pixels, numbers == number, colour(number))
    picture, draw = _canvas(pixels)
    font, y = _font(picture.size), 0.0
    for number in found:
        y = _tag(draw, (0.0, y), classes[number], colour(number), font)[3]
    return picture


def label_map(labels: Tensor) -> "Image.Image":
    """Class numbers (H, W) uint8 as a picture whose pixels are these numbers, shown in the classes' colours."""
    picture, _ = _canvas(labels.cpu().numpy().astype(np.uint8))
    picture.putpalette([channel for number in range(256) for channel in ((0, 0, 0), colour(number))[number > 0]])
    return picture


def draw_class(image: Tensor, text: str) -> "Image.Image":
    """An image with a line of text in its corner, such as its class and how sure that is."""
    picture, draw = _canvas(_pixels(image))
    _tag(draw, (0.0, 0.0), text, (32, 32, 32), _font(picture.size))
    return picture


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """(H, W, 3), a copy."""
    return image.permute(1, 2, 0).cpu().numpy().copy()


def _canvas(pixels: NDArray[np.uint8]) -> tuple["Image.Image", "ImageDraw.ImageDraw"]:
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise UserError('pictures need Pillow: pip install "detops[training]"') from error
    picture = Image.fromarray(pixels)
    return picture, ImageDraw.Draw(picture)


def _tint(pixels: NDArray[np.uint8], inside: NDArray[np.bool_], tint: Colour) -> None:
    """Mixes a colour into the pixels of a region, and draws its border in that colour."""
    pixels[inside] = (0.55 * pixels[inside] + 0.45 * np.array(tint)).astype(np.uint8)
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels[inside & ~core] = tint


def _line_width(size: tuple[int, int]) -> int:
    return max(1, round(min(size) / 250))


def _font(size: tuple[int, int]) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(max(9, round(min(size) / 42)))


def _draw_box(draw: "ImageDraw.ImageDraw", box: Sequence[float], line: Colour, width: int) -> None:
    """An outline with a thin dark one around it, so that it shows on a ground of its own colour."""
    x1, y1, x2, y2 = (round(value) for value in box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)  # the last pixel inside
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_darker(line))
    draw.rectangle((x1, y1, x2, y2), outline=line, width=width)


def _draw_tag(
    draw: "ImageDraw.ImageDraw",
    size: tuple[int, int],
    box: Sequence[float],
    text: str,
    fill: Colour,
    width: int,
    font: "Font",
) -> None:
    """A tag on the upper edge of a box, or inside where the image ends; moved to the left to fit."""
    left, top, right, bottom = _tag_size(draw, text, font)
    x = min(max(box[0] - width / 2, 0), max(size[0] - (right - left), 0))
    y = box[1] - (bottom - top)
    _tag(draw, (x, y if y >= 0 else max(box[1], 0)), text, fill, font)


def _tag_size(draw: "ImageDraw.ImageDraw", text: str, font: "Font") -> tuple[float, float, float, float]:
    left, top, right, bottom = draw.textbbox((0, 0), text or " ", font=font)
    _, _, _, descent = draw.textbbox((0, 0), "Ag", font=font)  # all tags of a picture are of one height
    return 0, 0, right - left + 6, max(bottom, descent) - min(top, 0) + 3


def _tag(
    draw: "ImageDraw.ImageDraw",
    at: tuple[float, float],
    text: str,
    fill: Colour,
    font: "Font",
) -> tuple[float, float, float, float]:
    """A filled tag; gives its corners."""
    _, _, width, height = _tag_size(draw, text, font)
    x, y = round(at[0]), round(at[1])
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill, outline=_darker(fill))
    draw.text((x + 3, y + 1), text, fill=_readable_on(fill), font=font)
    return x, y, x + width, y + height


def _readable_on(ground: Colour) -> Colour:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2)."""
    linear = [(value / 255) ** 2.2 for value in ground]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _darker(line: Colour) -> Colour:
    return line[0] // 3, line[1] // 3, line[2] // 3
