"""Metrics for people: a table in the terminal, JSON, plots and a page."""

import base64
import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import UserError
from .._page import document, section, tiles
from ..model_file import replacing
from .coco_ap import MEANINGS
from .metrics import Metrics, Table, shown
from .plots import Plot, plots

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def rich_table(metrics: Metrics) -> "RichTable":
    """The table of the classes, with what holds for all at its end.

    Raises:
        UserError: If rich is not installed.
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError as error:
        raise UserError('tables need rich: pip install "detops[training]"') from error
    headings, rows = metrics.table()
    table = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=number > 0)
    *classes, total = rows
    for row in classes:
        table.add_row(*(Text(cell) for cell in row))
    table.add_section()
    table.add_row(*(Text(cell) for cell in total), style="bold")
    return table


def overall(metrics: Metrics) -> dict[str, float]:
    """The numbers that are not of one class."""
    return {name: value for name, value in metrics.as_dict().items() if "/" not in name}


def write(folder: Path, metrics: Metrics, facts: Mapping[str, str], *, with_plots: bool) -> list[Path]:
    """Writes metrics.json and, with plots, these as PNG and a page, report.html, that has them in it.

    Args:
        folder: Made if it is not there.
        metrics: What was computed.
        facts: What was evaluated, by name: the model, the data.
        with_plots: Else metrics.json alone.

    Returns:
        The files.

    Raises:
        UserError: If matplotlib is needed and not installed.
    """
    numbers = {name: None if math.isnan(value) else value for name, value in metrics.as_dict().items()}
    name, _ = metrics.main
    content = json.dumps({"main": name, "metrics": numbers, "about": dict(facts)}, indent=1, ensure_ascii=False)
    files = [_written(folder / "metrics.json", f"{content}\n".encode())]
    if with_plots:
        drawn = plots(metrics)
        files += [_written(folder / f"{plot.name}.png", plot.png) for plot in drawn]
        files.append(_written(folder / "report.html", page(metrics, facts, drawn).encode()))
    return files


def _written(path: Path, content: bytes) -> Path:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def page(metrics: Metrics, facts: Mapping[str, str], drawn: list[Plot]) -> str:
    """One self-contained HTML page."""
    title = "Evaluation"
    line = " · ".join(escape(value) for value in facts.values())
    body = [
        f"<header><h1>{title}</h1><p>{line}</p></header>",
        tiles([(name, shown(value), MEANINGS.get(name, "")) for name, value in overall(metrics).items()]),
        section("Class by class", "A dash: nothing to count.", _html_table(metrics.table())),
    ]
    body += [section(plot.caption, "", _image(plot)) for plot in drawn]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    body.append(section("What was evaluated", "", f"<dl>{rows}</dl>"))
    return document(f"detops: {line}", "".join(body))


def _html_table(table: Table) -> str:
    def cells(tag: str, row: tuple[str, ...]) -> str:
        first, *others = (escape(cell) for cell in row)
        return f'<{tag} class="text">{first}</{tag}>' + "".join(f"<{tag}>{cell}</{tag}>" for cell in others)

    head = f"<thead><tr>{cells('th', table.headings)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _image(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    style = "max-width: 100%; border-radius: 10px; background: #fff; padding: 12px"
    about = f'alt="{escape(plot.caption)}" width="{plot.width}" style="{style}"'
    return f'<img {about} src="data:image/png;base64,{data}">'
