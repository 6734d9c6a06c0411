"""The style sheet of the page: what its plots and its table add to every page of detops."""

from detops._page import CSS as BASE

CSS = (
    BASE
    + """
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
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px -1px 0; }
.legend i + i, .legend i:not(:first-child) { margin-left: 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 20px; }
.spread { color: var(--muted); padding-left: 0; }
tr.first td { border-top: 1px solid var(--line); }
tr.first td:first-child { font-weight: 600; }
td.slower.number, td.failed { color: var(--slow); font-weight: 600; }
"""
)
