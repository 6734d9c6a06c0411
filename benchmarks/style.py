"""The style sheet of the page, light or dark as the reader's system is."""

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
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg { font-size: 12.5px; font-variant-numeric: tabular-nums; }
svg text { fill: var(--ink); white-space: pre; }
svg .small { fill: var(--muted); font-size: 11.5px; }
svg .name { font-weight: 600; }
svg .ratio { font-weight: 700; font-size: 14px; }
svg .slow { fill: var(--slow); }
.grid { stroke: var(--line); }
.base { stroke: var(--base); stroke-dasharray: 3 3; }
.range { stroke: var(--ours); stroke-width: 2; opacity: 0.25; }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.dot { stroke: var(--paper); stroke-width: 1; opacity: 0.85; }
.ours { fill: var(--ours); background: var(--ours); } .ours-line { stroke: var(--ours); }
.peer { fill: var(--peer); background: var(--peer); } .peer-line { stroke: var(--peer); }
.other { fill: var(--other); background: var(--other); } .other-line { stroke: var(--other); }
.mean { fill: var(--ink); }
svg .ours-text { fill: var(--ours); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tiles div { background: var(--panel); border-radius: 10px; padding: 16px 18px; }
.tiles b { display: block; font-size: 25px; line-height: 1.2; letter-spacing: -0.02em; }
.tiles span { display: block; font-weight: 600; }
.tiles small { display: block; color: var(--muted); line-height: 1.35; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px -1px 0; }
.legend i + i, .legend i:not(:first-child) { margin-left: 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 20px; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 13.5px; margin-bottom: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--base); }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
.text { text-align: left; white-space: normal; }
.spread { color: var(--muted); padding-left: 0; }
tr.first td { border-top: 1px solid var(--line); }
tr.first td:first-child { font-weight: 600; }
td.slower.number, td.failed { color: var(--slow); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px 32px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 0; font-size: 13px; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 8px 0; padding-left: 20px; color: var(--muted); } li { margin: 4px 0; }
"""
