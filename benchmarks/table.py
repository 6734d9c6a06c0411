"""What a run shows in the terminal: a progress line, the table of all cases and a summary by operator."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from .results import Results, Row, changes, differences, geometric_mean
from .timing import COLD_BYTES

Table = tuple[list[str], list[list[str]]]  # headings and lines

HINT = 'A progress line and colours: pip install "detops[bench]"'


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Gives a function that says on the terminal what runs now; silent where stderr is none."""
    if not sys.stderr.isatty() or not _has_rich():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.completed:.0f} done"),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, completed=-1)
        yield lambda text: bar.update(task, description=text, advance=1)


def show(results: Results, before: Results | None = None, before_name: str = "", markdown: bool = False) -> None:
    """Prints the table, the summary and the notes on stdout."""
    if not results.rows:
        return
    change = changes(results, before) if before else None
    detail, overview = cases_table(results, change), summary_table(results)
    if markdown or not _has_rich():
        print(f"{plain(detail)}\n\n{plain(overview)}\n")
    else:
        _print_rich(detail, overview)
    for note in notes(results):
        print(note)
    if before:
        print(
            f"Change against {before_name}. "
            + ("; ".join(differences(results, before)) or "Same machine, same versions.")
        )
    if not markdown and not _has_rich():
        print(HINT)


def cases_table(results: Results, change: dict[tuple[str, str, int], float] | None = None) -> Table:
    """Every case with each of its peers."""
    headings = ["operator", "case", "threads", "detops", "±", "peer", "±", "ratio", "GB/s", "% copy"]
    counted = any(row.work for row in results.rows)
    if counted:
        headings += ["kernels", "waits"]
    if change is not None:
        headings.append("change")
    lines = []
    for row in results.rows:
        if row.error or not row.ours:
            lines.append([row.op, f"{row.case}: {row.error}", str(row.threads), "failed", *[""] * (len(headings) - 4)])
            continue
        share = results.copy_share(row)
        name = f"{row.case} ({row.note})" if row.note else row.case
        ours = [seconds(row.ours.median), percent(row.ours.spread)]
        speed = [f"{row.speed / 1e9:.1f}" if row.speed else "", percent(share) if share else ""]
        last = [signed(change.get(row.key))] if change is not None else []
        for peer in list(row.ratios) or [""]:
            theirs = [seconds(row.timings[peer].median), percent(row.timings[peer].spread)] if peer else ["", ""]
            ratio = mark(row.ratios[peer]) if peer else ""
            work = [_pair(row, peer, "kernels"), _pair(row, peer, "waits")] if counted else []
            title = name if peer in ("", row.peer) and peer in ("", "torchvision") else f"{name} [{peer}]"
            lines.append([row.op, title, str(row.threads), *ours, *theirs, ratio, *speed, *work, *last])
    return headings, lines


def summary_table(results: Results) -> Table:
    """By operator and number of threads: the ratios to the main peer."""
    headings = ["operator", "threads", "cases", "lowest ratio", "mean ratio", "highest ratio"]
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in results.rows:
        groups.setdefault((row.op, row.threads), []).append(row)
    lines = []
    for (op, threads), rows in sorted(groups.items()):
        mean, ratios = geometric_mean(rows), [row.ratio for row in rows if row.ratio]
        if mean:
            lines.append([op, str(threads), str(len(rows)), *map(mark, (min(ratios), mean, max(ratios)))])
    return headings, lines


def notes(results: Results) -> list[str]:
    """What is to be known about the numbers."""
    settings, machine, versions = results.settings, results.machine, results.versions
    copy = ", ".join(f"{speed / 1e9:.1f} GB/s with threads = {n}" for n, speed in results.copy_speed.items())
    found = [
        f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('instruction set')}; "
        f"{settings.get('device')}, {settings.get('dtype')}; torch {versions.get('torch')}, "
        f"torchvision {versions.get('torchvision')}; allocator {settings.get('allocator')}; "
        f"boxes {settings.get('boxes')}.",
        f"Copy speed (read + write): {copy}.",
        "Ratio: peer / detops, median over the rounds; ±: half the interquartile range.",
    ]
    if any(row.work for row in results.rows):
        found.append(
            "Kernels, waits: CUDA kernels that a call launches, and times that it waits for the device, detops : peer. "
            f"Cases of {COLD_BYTES >> 20} MiB and more are timed with nothing left of their data in the L2 cache."
        )
    if any(row.ratio and row.ratio < 1 for row in results.rows):
        found.append("Marked with !: slower than the peer.")
    if results.failures:
        found.append(f"FAILED: {len(results.failures)} of {len(results.rows)} measurements disagree or stopped.")
    return found


def plain(table: Table) -> str:
    """The table in aligned Markdown."""
    headings, lines = table
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (headings, *lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(headings))]
    left = [_is_text(heading) for heading in headings]
    aligned = [[c.ljust(w) if a else c.rjust(w) for c, w, a in zip(line, widths, left, strict=True)] for line in cells]
    rule = [("-" * w) if a else "-" * (w - 1) + ":" for w, a in zip(widths, left, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (aligned[0], rule, *aligned[1:]))


def seconds(value: float) -> str:
    """A time with three digits and the unit that suits it: "0.342 ms" becomes "342 µs"."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if value * factor < 999.5:
            return f"{digits(value * factor)} {unit}"
    return f"{digits(value)} s"


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{value:.0%}"


def signed(value: float | None) -> str:
    """A relative change with its sign; "new" for what was not there before."""
    return "new" if value is None else f"{value:+.0%}"


def mark(ratio: float) -> str:
    """A ratio as "12.3×", with an exclamation mark below one."""
    return f"{digits(ratio)}×" if ratio >= 1 else f"! {digits(ratio)}×"


def _pair(row: Row, peer: str, count: Literal["kernels", "waits"]) -> str:
    """A count of detops and of the peer, "1 : 31"."""
    sides = [row.work.get(side) for side in ("detops", peer) if side]
    return " : ".join("?" if work is None else str(getattr(work, count)) for work in sides)


def _print_rich(*tables: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 150)
    for headings, lines in tables:
        shown = [i for i, heading in enumerate(headings) if heading != "±" or console.width >= 110]
        table = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
        for heading in (headings[i] for i in shown):
            wraps = heading == "case"
            side: Literal["left", "right"] = "left" if _is_text(heading) else "right"
            table.add_column(heading, justify=side, no_wrap=not wraps, overflow="fold", min_width=16 if wraps else None)
        previous = ""
        for line in lines:
            style = "red" if "failed" in line else "yellow" if any(cell.startswith("! ") for cell in line) else ""
            cells = ["" if line[0] == previous else line[0], *line[1:]]
            table.add_row(*(Text(cells[i]) for i in shown), style=style)
            previous = line[0]
        console.print(table)


def _is_text(heading: str) -> bool:
    return heading in ("operator", "case")


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
