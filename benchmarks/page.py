"""The results as one self-contained HTML page."""

from html import escape

from detops._page import document, section, tiles

from . import plots
from .results import Results, Row, changes, differences, geometric_mean
from .style import CSS
from .table import cases_table, digits, mark

METHOD = (
    "Each side of a case runs once first and both results are compared; only then is anything timed.",
    "The sides are timed interleaved in one process: rounds in which each runs in turn, in alternating order, each "
    "sample repeated to last about 2 ms. The result is freed within the timed part.",
    "Times are medians over the rounds; ± is half the interquartile range. The ratio is the median over the rounds of "
    "the peer's time divided by that of detops: above 1×, detops is faster.",
    "GB/s counts the least bytes a case must move, each input read once and each output written once. The copy speed "
    "is that of a large <code>copy_</code>, read plus written; small cases exceed it because they stay in the caches.",
    "On a CUDA device, cases of 1 MiB and more are timed call by call, the L2 cache overwritten before each; smaller "
    "ones back to back, so that launching counts.",
)


def render(results: Results, before: Results | None = None) -> str:
    """The page; with ``before``, the table shows the change since then."""
    threads = min(row.threads for row in results.rows)
    groups = {op: [r for r in rows if r.ours] for op, rows in results.by_operator(threads).items()}
    groups = {op: rows for op, rows in groups.items() if rows}
    body = [_header(results, threads), _tiles(results, groups)]
    if any(geometric_mean(rows) for rows in groups.values()):
        about = "One dot per case, logarithmic; the bar is the geometric mean. Hover a dot for its case."
        body.append(section("How many times faster", about, plots.ratio_overview(groups)))
    body += [_scaling(groups), _threads(results, threads)]
    body.append("<h2>Operator by operator</h2><p>Time per call, logarithmic; shorter is better.</p>" + _legend(results))
    body += [f"<section><h3>{escape(op)}</h3>{plots.time_bars(rows)}</section>" for op, rows in groups.items()]
    body += [_table(results, before), _machine(results, before)]
    return document("detops bench", "".join(body), CSS)


def _header(results: Results, threads: int) -> str:
    settings, machine, versions = results.settings, results.machine, results.versions
    device = machine.get("cuda:0") if settings["device"] == "cuda" else machine.get("processor")
    facts = [device, settings["dtype"], f"{threads} thread" + "s" * (threads > 1), f"torch {versions.get('torch')}"]
    facts += [f"torchvision {versions.get('torchvision')}", settings["date"]]
    line = " · ".join(escape(str(fact)) for fact in facts)
    return f"<header><h1>detops {escape(str(versions.get('detops')))}</h1><p>{line}</p></header>"


def _tiles(results: Results, groups: dict[str, list[Row]]) -> str:
    rows = [row for group in groups.values() for row in group if row.ratio]
    facts = [("cases", str(len({row.key[:2] for row in results.rows})), f"{len(groups)} operators")]
    failed = len(results.failures)
    facts.append(("agreement", "all agree" if not failed else f"{failed} failed", "checked before timing"))
    if rows:
        mean, ratios = geometric_mean(rows) or 1.0, [row.ratio or 1.0 for row in rows]
        best = max(rows, key=lambda row: row.ratio or 0)
        facts.append(("mean ratio", mark(mean), "geometric, over all cases"))
        facts.append(("highest", mark(max(ratios)), f"{best.op}, {best.case}"))
        worst = min(rows, key=lambda row: row.ratio or 0)
        facts.append(("lowest", mark(min(ratios)), f"{worst.op}, {worst.case}"))
    return tiles(facts)


def _scaling(groups: dict[str, list[Row]]) -> str:
    series: dict[tuple[str, str], list[Row]] = {}
    for op, rows in groups.items():
        for row in rows:
            if row.series:
                series.setdefault((op, row.series), []).append(row)
    figures = [
        f"<figure><figcaption>{escape(op)}, {escape(name)}</figcaption>{plots.size_lines(rows)}</figure>"
        for (op, name), rows in series.items()
        if len({row.size for row in rows}) > 1
    ]
    about = "Time per call against size, both logarithmic."
    return section("With more boxes", about, f'<div class="figures">{"".join(figures)}</div>') if figures else ""


def _threads(results: Results, fewest: int) -> str:
    by_key = {row.key: row for row in results.rows if row.ours}
    sections = []
    for threads in sorted({row.threads for row in results.rows} - {fewest}):
        pairs: dict[str, list[tuple[Row, Row]]] = {}
        for row in results.rows:
            many = by_key.get((row.op, row.case, threads))
            if row.threads == fewest and row.ours and many:
                pairs.setdefault(row.op, []).append((row, many))
        if pairs:
            title = f"With {threads} threads instead of {fewest}"
            about = "How many times faster a case becomes; one dot per case. Small cases stay serial on purpose."
            sections.append(section(title, about, _legend(results) + plots.thread_gain(pairs, threads)))
    return "".join(sections)


def _table(results: Results, before: Results | None) -> str:
    headings, lines = cases_table(results, changes(results, before) if before else None)
    head = "".join(f'<th class="{_column(heading)}">{escape(heading)}</th>' for heading in headings)
    body, previous = [], ""
    for line in lines:
        style = "failed" if "failed" in line else "slower" if any(cell.startswith("! ") for cell in line) else ""
        first = ' class="first"' if line[0] != previous else ""
        cells = [line[0] if line[0] != previous else "", *line[1:]]
        body.append(
            f"<tr{first}>" + "".join(_cell(h, c, style) for h, c in zip(headings, cells, strict=True)) + "</tr>"
        )
        previous = line[0]
    return (
        '<section><h2>Every case</h2><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _cell(heading: str, content: str, style: str) -> str:
    classes = f"{_column(heading)} {style if heading in ('ratio', 'case', 'detops') else ''}".strip()
    return f'<td class="{classes}">{escape(content.removeprefix("! "))}</td>'


def _column(heading: str) -> str:
    return "text" if heading in ("operator", "case") else "spread" if heading == "±" else "number"


def _machine(results: Results, before: Results | None) -> str:
    copies = {
        f"copy speed, {n} thread{'s' * (n > 1)}": f"{digits(s / 1e9)} GB/s" for n, s in results.copy_speed.items()
    }
    parts = {"Machine": {**results.machine, **copies}, "Versions": results.versions, "Settings": results.settings}
    lists = "".join(
        f"<div><h3>{title}</h3><dl>{''.join(_fact(name, value) for name, value in facts.items())}</dl></div>"
        for title, facts in parts.items()
    )
    method = "".join(f"<li>{sentence}</li>" for sentence in METHOD)
    since = "".join(f"<li>{escape(item)}</li>" for item in differences(results, before)) if before else ""
    compared = f"<h3>Differences to the run compared with</h3><ul>{since}</ul>" if since else ""
    return f'<section><h2>How it was measured</h2><ul>{method}</ul>{compared}<div class="facts">{lists}</div></section>'


def _fact(name: str, value: object) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"<dt>{escape(name)}</dt><dd>{escape(shown)}</dd>"


def _legend(results: Results) -> str:
    peers = sorted({row.peer for row in results.rows if row.peer}, key=lambda name: name != "torchvision")
    names = [("ours", "detops"), *([("peer", " or ".join(peers))] if peers else [])]
    return '<p class="legend">' + "".join(f'<i class="{style}"></i>{escape(name)}' for style, name in names) + "</p>"
