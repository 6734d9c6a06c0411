"""Files of pictures.

The pixels are those that the file stores: an EXIF orientation is not applied, as annotations (COCO's too) count the
stored rows and columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from .problems import ReadError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # greys of 16 bits, which PIL's convert() cuts off at 255


def size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's header.

    Raises:
        ReadError: If there is no such file, or no picture in it.
    """
    with _opened(path) as image:
        return image.height, image.width


def read(path: Path) -> tv_tensors.Image:
    """A picture as uint8 (3, H, W), red, green and blue.

    Grey, palette and CMYK pictures are converted, an alpha channel is left out, of several frames the first is taken.

    Raises:
        ReadError: If there is no such file, or no whole picture in it.
    """
    with _opened(path) as image, _complaining(path):
        pixels = np.array(_rgb(image))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def read_labels(path: Path) -> Tensor:
    """A picture whose pixels are numbers, grey or of a palette, as int64 (H, W).

    Raises:
        ReadError: If there is no such file, no whole picture in it, or one of colours.
    """
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P", *_DEEP):
            raise ReadError(path, f"expected a number for each pixel (grey or palette), got a picture of {image.mode}")
        with _complaining(path):
            return torch.from_numpy(np.array(image).astype(np.int64))


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise ReadError(path, "no such file") from error
    except Exception as error:  # whatever a decoder makes of a broken file
        raise ReadError(path, f"not a picture ({_reason(error)})") from error


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as above
        raise ReadError(path, f"broken picture ({_reason(error)})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _DEEP:
        return Image.fromarray((np.array(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return "unknown format" if "cannot identify" in str(error) else str(error) or type(error).__name__
