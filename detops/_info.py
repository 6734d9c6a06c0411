"""What this installation is made of and what it runs on: the command ``detops info``, and the head of saved results."""

import argparse
import ctypes
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from detops import _C

CUDA_LIBRARY = Path(__file__).with_name("_C_cuda.so")


def main(options: argparse.Namespace) -> int:
    """Prints every section, aligned."""
    for title, facts in sections().items():
        print(title)
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            print(f"  {name:{width}}  {value}")
    return 0


def sections() -> dict[str, dict[str, Any]]:
    """All facts by section and name."""
    return {
        "Versions": versions(),
        "Machine": machine(),
        "Kernels": {
            "instruction sets": f"{' '.join(_C.instruction_sets())} (active: {_C.instruction_set()})",
            "CUDA library": cuda_library(),
            "threads": torch.get_num_threads(),
            "OpenMP": openmp(),
            "allocator": allocator(),
        },
        "Operators": operators() or {"none": "registered"},
    }


def versions() -> dict[str, str]:
    """Versions of what runs and of what built it."""
    build = _C.build_info()
    return {
        "detops": build["version"],
        "torch": torch.__version__,
        "torchvision": _distribution("torchvision"),
        "numpy": _distribution("numpy"),
        "python": platform.python_version(),
        "built with torch": build["torch"],
        "C++ compiler": build["cxx"],
        "CUDA compiler": build["nvcc"] or "none",
    }


def machine() -> dict[str, Any]:
    """Processor, memory and accelerators; nothing that names the machine."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "caches": _caches() or "unknown",
        "instruction set": _C.instruction_set(),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".rstrip(", "),
    }
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = (
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}"
        )
    return facts


def allocator() -> str:
    """Settings that decide whether freed memory is kept, and so how much a large output costs."""
    preloaded = [Path(p).name for p in os.environ.get("LD_PRELOAD", "").replace(":", " ").split() if "malloc" in p]
    return " ".join([*preloaded, os.environ.get("GLIBC_TUNABLES", "")]).strip() or "default"


def openmp() -> str:
    """Settings of the thread pool, such as how long it spins before it sleeps."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return " ".join(f"{name}={value}" for name, value in found.items()) or "default"


def cuda_library() -> str:
    """Whether the CUDA kernels were built, for which architectures, and whether this torch can use them."""
    if not CUDA_LIBRARY.exists():
        return "not built"
    try:
        library = ctypes.CDLL(str(CUDA_LIBRARY))
        library.detops_cuda_architectures.restype = ctypes.c_char_p
        architectures = library.detops_cuda_architectures().decode()
        major, minor = divmod(library.detops_cuda_runtime_version() // 10, 100)
    except (OSError, AttributeError) as error:
        return f"built, but cannot be loaded: {error}"
    loaded = any(Path(path) == CUDA_LIBRARY for path in torch.ops.loaded_libraries)
    used = "loaded" if loaded else "not loaded" if torch.version.cuda else "not loaded, torch is without CUDA"
    return f"CUDA {major}.{minor} for {architectures} ({used})"


def operators() -> dict[str, str]:
    """Registered operators and the devices they have a kernel for."""
    names = sorted(
        {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("detops::")}
    )
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        name.removeprefix("detops::"): " ".join(key.lower() for key in ("CPU", "CUDA") if has_kernel(name, key))
        or "none"
        for name in names
    }


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in reversed(lines))
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    model = facts.get("model name", platform.machine())
    return f"{model}, family {facts['cpu family']} model {facts['model']}" if "cpu family" in facts else model


def _caches() -> str:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size.removesuffix('K')} KiB" if size.endswith("K") else f"L{level} {size}")
    return ", ".join(found)
