"""Files of pictures, whole and broken."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detops.data import ReadError, pictures


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_pixels_come_as_stored(tmp_path: Path, write_picture, name: str) -> None:
    image = pictures.read(write_picture(tmp_path / name, 20, 30))
    assert (image.dtype, image.shape) == (torch.uint8, (3, 20, 30))
    assert image[:, 5, 9].tolist() == [5, 9, 7]
    assert image.is_contiguous()
    assert pictures.size(tmp_path / name) == (20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tif" if mode == "CMYK" else "a.png"
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 204 * 256, np.uint16)).save(tmp_path / name)
    else:
        Image.new("RGB", (6, 4), (204, 204, 204)).convert(mode, dither=Image.Dither.NONE).save(tmp_path / name)
    image = pictures.read(tmp_path / name)
    assert image.shape == (3, 4, 6)
    assert bool(((image.int() - (255 if mode == "1" else 204)).abs() <= 3).all()), image[:, 0, 0]


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (6, 4))
    image.putpalette([9, 8, 7, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert pictures.read(tmp_path / "a.png")[:, 0, 0].tolist() == [9, 8, 7]


def test_an_orientation_in_exif_is_not_applied(tmp_path: Path, write_picture) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    path = write_picture(tmp_path / "a.jpg", 20, 30, exif=exif)
    assert pictures.size(path) == (20, 30) == pictures.read(path).shape[1:]


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_broken_files_are_read_errors(tmp_path: Path, ending: str) -> None:
    whole, broken = tmp_path / f"whole.{ending}", tmp_path / f"broken.{ending}"
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(whole)
    content = whole.read_bytes()
    errors = []
    for _ in range(30):
        damaged = bytearray(content[: generator.integers(len(content))])
        for place in generator.integers(0, len(damaged) or 1, 3):
            damaged[place : place + 1] = generator.bytes(1)
        broken.write_bytes(damaged)
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's, of damaged tags
                pictures.size(broken)
                pictures.read(broken)
        except ReadError as error:
            errors.append(str(error))
    assert len(errors) > 10
    assert all(error.startswith(f"{broken}: ") for error in errors)


def test_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ReadError, match=r"text\.png: not a picture \(unknown format\)"):
        pictures.size(tmp_path / "text.png")
    with pytest.raises(ReadError, match=r"none\.png: no such file"):
        pictures.read(tmp_path / "none.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "colours.png")
    with pytest.raises(ReadError, match=r"expected a number for each pixel .* got a picture of RGB"):
        pictures.read_labels(tmp_path / "colours.png")


@pytest.mark.parametrize(("mode", "dtype"), [("L", np.uint8), ("I;16", np.uint16), ("P", np.uint8)])
def test_labels_are_the_numbers_of_the_file(tmp_path: Path, mode: str, dtype: type) -> None:
    numbers = np.arange(24).reshape(4, 6).astype(dtype) + (300 if mode == "I;16" else 0)
    image = Image.fromarray(numbers)
    if mode == "P":
        image.putpalette([255, 0, 0] * 256)
    image.save(tmp_path / "a.png")
    assert pictures.read_labels(tmp_path / "a.png").tolist() == numbers.tolist()
