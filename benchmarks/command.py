"""The command ``detops bench``."""

import argparse
import os
import sys
from pathlib import Path

from detops import _info
from detops._errors import UserError

from . import page, table
from .results import Results, check_writable, replaced
from .runner import Settings, new_results, run

# One growing heap, never returned: large blocks are not mapped afresh (and zeroed by the system) at each call.
KEEP_HEAP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


def main(options: argparse.Namespace) -> int:
    """Runs or loads what is asked for and shows it; returns the exit status."""
    before = Results.load(options.compare) if options.compare else None
    for path in filter(None, (options.save, options.html)):
        check_writable(path)
    interrupted = False
    if options.load:
        if options.ops:
            raise UserError(f"bench: --load shows a whole run, expected no operator, got {' '.join(options.ops)}")
        results = Results.load(options.load)
    else:
        settings = _settings(options)
        settings.check()
        if options.keep_heap and _info.allocator() != KEEP_HEAP:
            _restart()
        results = new_results(settings)
        try:
            with table.progress() as progress:
                run(settings, results, progress)
        except KeyboardInterrupt:
            interrupted = True
    if options.save and results.rows:
        results.save(options.save)
    if options.html and results.rows:
        with replaced(options.html) as temporary:
            temporary.write_text(page.render(results, before), encoding="utf-8")
    table.show(results, before, Path(options.compare).name if options.compare else "", options.markdown)
    if interrupted:
        print(f"detops: interrupted after {len(results.rows)} measurements", file=sys.stderr)
        return 130
    return 1 if results.failures else 0


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        ops=tuple(options.ops),
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        quick=options.quick,
        boxes=options.boxes,
        seconds=options.seconds if options.seconds is not None else 0.3 if options.quick else 1.0,
    )


def _restart() -> None:
    if not sys.platform.startswith("linux"):
        raise UserError("bench: --keep-heap: needs Linux and glibc")
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": KEEP_HEAP})
