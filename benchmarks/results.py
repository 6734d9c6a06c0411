"""What a run measured and where: the file that ``--save`` writes and ``--compare`` reads."""

import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detops._errors import UserError

from .counting import DeviceWork
from .timing import Timing

FORMAT = 1


@dataclass
class Row:
    """One case at one number of threads; ``timings`` is empty and ``error`` says why if the sides disagreed.

    ``work`` says by side what a call asks of a CUDA device.
    """

    op: str
    case: str
    threads: int
    bytes: int
    timings: dict[str, Timing] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    error: str = ""
    note: str = ""
    series: str = ""
    size: int = 0
    work: dict[str, DeviceWork | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """Tells this measurement from the run's others."""
        return self.op, self.case, self.threads

    @property
    def ours(self) -> Timing | None:
        """The timing of detops."""
        return self.timings.get("detops")

    @property
    def peer(self) -> str:
        """The main peer's name, "" if there is none."""
        return next(iter(self.ratios), "")

    @property
    def ratio(self) -> float | None:
        """Main peer's time over that of detops: above one, detops is faster."""
        return self.ratios.get(self.peer)

    @property
    def speed(self) -> float | None:
        """Least bytes to move over the time of detops, bytes per second."""
        return self.bytes / self.ours.median if self.ours else None


@dataclass
class Results:
    """A whole run. ``settings``, ``machine`` and ``versions`` are plain texts and numbers by name."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, Any]
    copy_speed: dict[int, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def failures(self) -> list[Row]:
        """Cases whose sides disagreed."""
        return [row for row in self.rows if row.error]

    def copy_share(self, row: Row) -> float | None:
        """A row's speed relative to the machine's copy speed at the same number of threads."""
        copy = self.copy_speed.get(row.threads)
        return row.speed / copy if row.speed and copy else None

    def by_operator(self, threads: int | None = None) -> dict[str, list[Row]]:
        """Rows grouped by operator, in the order they ran; those of one number of threads if given."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if threads in (None, row.threads):
                groups.setdefault(row.op, []).append(row)
        return groups

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all."""
        with replaced(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: If the file is missing or is something else.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"{path}: not a results file of detops bench: expected an object with 'format': {FORMAT}")
        try:
            content["copy_speed"] = {int(threads): float(speed) for threads, speed in content["copy_speed"].items()}
            content["rows"] = [_row(row) for row in content["rows"]]
            return cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a results file of detops bench: {error!r}") from error


def geometric_mean(rows: list[Row]) -> float | None:
    """Geometric mean of the ratios of those rows that have one."""
    ratios = [row.ratio for row in rows if row.ratio]
    return statistics.geometric_mean(ratios) if ratios else None


def changes(results: Results, before: Results) -> dict[tuple[str, str, int], float]:
    """By row, the relative change in the time of detops: -0.2 takes a fifth less. Only comparable rows are in it."""
    if any(results.settings.get(name) != before.settings.get(name) for name in ("device", "dtype")):
        return {}
    old = {row.key: row.ours.median for row in before.rows if row.ours}
    return {row.key: row.ours.median / old[row.key] - 1 for row in results.rows if row.ours and row.key in old}


def differences(results: Results, before: Results) -> list[str]:
    """Where and with what two runs were made, as far as they differ: "torch: 2.14.0 before, 2.15.0 now"."""
    pairs = ((getattr(before, part), getattr(results, part)) for part in ("settings", "machine", "versions"))
    return [
        f"{name}: {then.get(name, 'unknown')} before, {now.get(name, 'unknown')} now"
        for then, now in pairs
        for name in sorted((now.keys() | then.keys()) - {"date"})
        if now.get(name) != then.get(name)
    ]


def check_writable(path: str | Path) -> None:
    """Raises ``UserError`` if a file cannot be written there, before hours go into what should be in it."""
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write")
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Gives a temporary file beside ``path`` that takes its place when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _row(content: dict[str, Any]) -> Row:
    content["timings"] = {side: Timing(**timing) for side, timing in content["timings"].items()}
    content["work"] = {side: DeviceWork(**work) if work else None for side, work in content.get("work", {}).items()}
    return Row(**content)
