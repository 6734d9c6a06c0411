"""Which lines of the CUDA kernels the tests ran: read after ``tests/emulate.sh coverage``, which calls this.

Prints a Markdown table; exit status 1 if a line did not run.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import build

FOLDER = build.ROOT / "build" / "emulated-coverage" / "csrc" / "ops"


def line_counts(operator: str) -> Counter[int]:
    """How often each line of an operator's .cu file ran, over all instances of its templates."""
    gcov = shutil.which("gcov") or sys.exit("gcov was not found; it comes with gcc")
    data = FOLDER / f"{operator}.cu.gcda"
    if not data.exists():
        sys.exit(f"{data.relative_to(build.ROOT)} is missing: no test ran the kernels of {operator}")
    command = [gcov, "--json-format", "--stdout", str(data)]
    run = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=True)
    counts: Counter[int] = Counter()
    for text in filter(None, run.stdout.split("\n")):
        for file in json.loads(text)["files"]:
            if Path(file["file"]).name == f"{operator}.cu":
                for line in file["lines"]:
                    counts[line["line_number"]] += line["count"]
    return counts


def main() -> int:
    print("| kernels | lines that ran | that did not |\n| --- | --- | --- |")
    complete = True
    for operator in build.operators():
        counts = line_counts(operator)
        missed = sorted(line for line, count in counts.items() if count == 0)
        complete = complete and not missed
        print(
            f"| {operator}.cu | {len(counts) - len(missed)} of {len(counts)} | {', '.join(map(str, missed)) or '–'} |"
        )
    return int(not complete)


if __name__ == "__main__":
    sys.exit(main())
