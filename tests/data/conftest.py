"""Small data sets in temporary folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WritePicture = Callable[..., Path]


@pytest.fixture
def write_picture() -> WritePicture:
    """Writes a picture of height x width whose pixel at row y, column x is (y, x, 7), as far as its mode can say so."""

    def write(path: Path, height: int = 20, width: int = 30, mode: str = "RGB", **options: object) -> Path:
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, 7)], axis=2).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path, **options)
        return path

    return write
