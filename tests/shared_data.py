"""Data sets too large for the repository, in a folder beside it where they are at hand."""

from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The folder of a data set; where it is not there, the test is skipped."""
    folder = _FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not there")
    return folder
