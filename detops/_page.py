"""A self-contained HTML page, light or dark as the reader's system is."""

from html import escape

CSS = """
:root {
  --paper: #fff; --panel: #f6f7f9; --ink: #1a1f29; --muted: #647084; --line: #e1e5eb; --base: #9aa4b5;
  --ours: #1f6feb; --peer: #aab3c1; --other: #d3d9e2; --slow: #c2410c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #10141b; --panel: #181e28; --ink: #e6eaf1; --muted: #93a0b4; --line: #273040; --base: #5d6a80;
    --ours: #58a0ff; --peer: #66738a; --other: #3f4a5d; --slow: #fb8a4b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
}
main { max-width: 1000px; margin: 0 auto; padding: 40px 40px 80px; }
h1 { font-size: 34px; letter-spacing: -0.02em; margin: 0; }
h2 { font-size: 22px; letter-spacing: -0.01em; margin: 56px 0 2px; }
h3 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 0 0 16px; color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tiles div { background: var(--panel); border-radius: 10px; padding: 16px 18px; }
.tiles b { display: block; font-size: 25px; line-height: 1.2; letter-spacing: -0.02em; }
.tiles span { display: block; font-weight: 600; }
.tiles small { display: block; color: var(--muted); line-height: 1.35; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--base); }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
.text { text-align: left; white-space: normal; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px 32px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 0; font-size: 13px; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 8px 0; padding-left: 20px; color: var(--muted); } li { margin: 4px 0; }
"""


def document(title: str, body: str, css: str = CSS) -> str:
    """A whole page around its body, which is HTML; the title is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body><main>{body}</main></body></html>\n"
    )


def tiles(values: list[tuple[str, str, str]]) -> str:
    """Big numbers side by side, each with its name and a remark."""
    cells = (f"<div><b>{escape(v)}</b><span>{escape(n)}</span><small>{escape(s)}</small></div>" for n, v, s in values)
    return f'<div class="tiles">{"".join(cells)}</div>'


def section(title: str, about: str, content: str) -> str:
    """A headline, a sentence and what is HTML already."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(about)}</p>{content}</section>"
