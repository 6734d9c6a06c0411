"""Registers, shared memory and spills of every CUDA kernel, as a Markdown table.

    python tests/cuda_resources.py [LIBRARY] > benchmarks/results/cuda_resources.md

Exit status 1 if a kernel uses local memory: its registers spill, or it indexes an array at run time. Reads the compiled
library, by default the installed one, with cuobjdump: from PATH, the CUDA toolkit or the triton package.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Of one kernel on one architecture."""

    registers: int  # of a thread
    shared: int  # bytes of a block
    local: int  # bytes of a thread


def find_cuobjdump() -> str:
    """The program's path."""
    folders = [os.environ.get("PATH", "")]
    folders += [f"{home}/bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    if triton := importlib.util.find_spec("triton"):
        folders += [f"{folder}/backends/nvidia/bin" for folder in triton.submodule_search_locations or ()]
    found = shutil.which("cuobjdump", path=os.pathsep.join(folders))
    return found or sys.exit("cuobjdump was not found: set CUDA_HOME, or install triton")


def find_library() -> Path:
    """The CUDA library of the installed package."""
    spec = importlib.util.find_spec("detops")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    libraries = [folder / "_C_cuda.so" for folder in folders if (folder / "_C_cuda.so").exists()]
    return libraries[0] if libraries else sys.exit("detops is not installed with CUDA kernels: name the library")


def read(library: Path) -> dict[str, dict[str, Usage]]:
    """Usage by kernel and architecture."""
    dump = [find_cuobjdump(), "--dump-resource-usage", str(library)]
    text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    names = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout
    usage: dict[str, dict[str, Usage]] = defaultdict(dict)
    architecture = kernel = ""
    for line in names.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (.+):$", line):
            kernel = short_name(match[1])
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            usage[kernel][architecture] = Usage(registers, shared, max(stack, local))
    return usage


def short_name(demangled: str) -> str:
    """``box_iou_kernel<0, float, float>``."""
    name = re.sub(r"\(detops::\w+\)|detops::|_GLOBAL__N__\w+::|\(anonymous namespace\)::|^void ", "", demangled)
    return re.sub(r"(?<=>)\(.*|^(\w+)\(.*", r"\1", name)


def table(usage: dict[str, dict[str, Usage]]) -> str:
    """One row per kernel; the largest figures over all architectures, the registers of each."""
    architectures = sorted({name for of_kernel in usage.values() for name in of_kernel}, key=lambda name: int(name[3:]))
    rows = [
        f"| kernel | shared, bytes | local, bytes | registers on {' / '.join(architectures)} |",
        "| --- | --- | --- | --- |",
    ]
    for kernel, of_kernel in sorted(usage.items()):
        shared, local = max(u.shared for u in of_kernel.values()), max(u.local for u in of_kernel.values())
        registers = " / ".join(str(of_kernel[name].registers) if name in of_kernel else "–" for name in architectures)
        rows.append(f"| `{kernel}` | {shared} | {local} | {registers} |")
    return "\n".join(rows)


def main() -> int:
    usage = read(Path(sys.argv[1]) if len(sys.argv) > 1 else find_library())
    print("# Resources of the CUDA kernels\n")
    print("As compiled; a kernel that uses local memory spills registers or indexes an array at run time.\n")
    print(table(usage))
    return int(any(u.local for of_kernel in usage.values() for u in of_kernel.values()))


if __name__ == "__main__":
    sys.exit(main())
