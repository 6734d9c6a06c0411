"""Which lines of the CUDA kernels the tests ran: read after ``tests/emulate.sh coverage``, which calls this.

Prints a Markdown table; exit status 1 if a line did not run.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import build

FOLDER = build.ROOT / "build" / "emulated-coverage" / "csrc" / "ops"


def is_kernel(path: Path) -> bool:
    """Whether a source file holds device code: an operator's own, or what several share."""
    return path.suffix == ".cu" or path.name.endswith("_kernels.h")


def line_counts(operator: str) -> dict[str, Counter[int]]:
    """By file, how often each line that an operator's kernels are made of ran, over all instances of its templates."""
    gcov = shutil.which("gcov") or sys.exit("gcov was not found; it comes with gcc")
    data = FOLDER / f"{operator}.cu.gcda"
    if not data.exists():
        sys.exit(f"{data.relative_to(build.ROOT)} is missing: no test ran the kernels of {operator}")
    command = [gcov, "--json-format", "--stdout", str(data)]
    run = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=True)
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for text in filter(None, run.stdout.split("\n")):
        for file in json.loads(text)["files"]:
            path = Path(file["file"])
            if is_kernel(path):
                for line in file["lines"]:
                    counts[path.name][line["line_number"]] += line["count"]
    return counts


def main() -> int:
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for operator in build.operators():
        for name, lines in line_counts(operator).items():
            for line, count in lines.items():
                counts[name][line] += count
    print("| kernels | lines that ran | that did not |\n| --- | --- | --- |")
    complete = True
    for name, lines in sorted(counts.items()):
        missed = sorted(line for line, count in lines.items() if count == 0)
        complete = complete and not missed
        print(f"| {name} | {len(lines) - len(missed)} of {len(lines)} | {', '.join(map(str, missed)) or '–'} |")
    return int(not complete)


if __name__ == "__main__":
    sys.exit(main())
