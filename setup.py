"""Builds detops: compiles ``csrc`` with ninja, and serves pip as its build backend.

Two libraries come out: ``detops._C`` (every operator, its CPU kernel, the pybind11 module) and, where nvcc is found,
``detops._C_cuda`` (the CUDA kernels, loaded beside it). Both use only torch's stable ABI: one build runs with every
torch from 2.11 on, CPU-only ones too.

Environment variables:
    DETOPS_CUDA           0: never build the CUDA library. 1: a missing nvcc is an error. Unset: where nvcc is.
    CUDA_HOME             The CUDA toolkit; otherwise that of the nvcc on PATH.
    TORCH_CUDA_ARCH_LIST  CUDA architectures, such as "9.0" or "8.0;9.0+PTX"; otherwise the common ones nvcc knows.
    MAX_JOBS              Compilers running at a time; otherwise one per core.
    CXX                   C++ compiler, such as "ccache clang++"; otherwise c++.
    CXXFLAGS, LDFLAGS     Flags added when compiling and linking.
    DETOPS_BUILD_DIR      Folder for object files; otherwise one per Python and torch version under build/.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import setuptools
from setuptools import Extension, build_meta, find_packages, setup
from setuptools.build_meta import (  # noqa: F401  (the parts of the backend that need nothing of ours)
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD_TOOLS = ["torch>=2.11", "ninja", "pybind11"]
ARCHITECTURES = "7.5 8.0 8.6 8.9 9.0 10.0 12.0"  # Turing to Blackwell; later ones run the last one's PTX
ENVIRONMENT = ["DETOPS_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "CXX", "CXXFLAGS", "LDFLAGS"]
ENVIRONMENT += ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"]  # nvcc's own

# A fused multiply-add or a reordered sum could decide a tie differently on another machine, or on the GPU.
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi"]
HOST_FLAGS = [
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    *WARNINGS,
]
FLAGS = ["-std=c++17", "-O3", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL", "-Icsrc"]
NVCC_FLAGS = ["--fmad=false", "-Werror", "all-warnings", "-Xcompiler", ",".join(HOST_FLAGS)]
LINK_FLAGS = ["-Wl,-O1", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL"]


def fail(message: str) -> NoReturn:
    """Ends the build with one sentence instead of a traceback."""
    sys.exit(f"detops: {message}")


# Checked here as well as in pyproject.toml: pip reads requires-python late, and without isolation not the requirements.
if sys.version_info < (3, 11):  # noqa: UP036
    fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
if int(setuptools.__version__.split(".")[0]) < 77:
    fail(f"setuptools 77 or newer is needed, setuptools {setuptools.__version__} is installed.")


def output(*command: str) -> str:
    """What a command prints, on either stream."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


@cache
def find_compiler() -> tuple[str, str]:
    """The C++ compiler's command and the line that names its version ("" if there is no such compiler)."""
    command = os.environ.get("CXX", "c++")
    words = shlex.split(command)
    found = words and shutil.which(words[0])
    return command, output(*words, "--version").partition("\n")[0] if found else ""


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit and the architectures to build for, such as ["8.0", "9.0+PTX"]."""

    home: Path
    version: str
    architectures: list[str]

    def code_flags(self) -> list[str]:
        """What nvcc is told of the architectures."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


@cache
def find_cuda() -> Cuda | None:
    """The CUDA toolkit to build with, None for a CPU build."""
    wanted = os.environ.get("DETOPS_CUDA", "")
    if wanted not in ("", "0", "1"):
        fail(f"DETOPS_CUDA must be 0 or 1, got {wanted!r}.")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")
    # The nvcc on PATH may be a script that calls the real one, so nvcc itself is asked where it lives.
    top = re.search(r"TOP=(.+)", output(nvcc, "-v", "--dryrun", "x.cu")) if nvcc else None
    if nvcc is None or top is None:
        if wanted == "1":
            fail("DETOPS_CUDA=1 needs nvcc: install the CUDA toolkit and set CUDA_HOME to its folder.")
        return None
    known = {f"{int(number) / 10}" for number in re.findall(r"compute_(\d+)\b", output(nvcc, "--list-gpu-arch"))}
    version = output(nvcc, "--version")
    return Cuda(Path(top[1].strip()).resolve(), " ".join(re.findall(r"release .*", version)), architectures(known))


def architectures(known: set[str]) -> list[str]:
    """TORCH_CUDA_ARCH_LIST, or the default ones among those known to nvcc, the last with PTX."""
    wanted = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,"))
    if wanted == [""]:
        default = [architecture for architecture in ARCHITECTURES.split() if architecture in known]
        return [*default[:-1], f"{default[-1]}+PTX"]
    for architecture in wanted:
        number = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", architecture)
        if number is None or number[1] not in known:
            fail(f"TORCH_CUDA_ARCH_LIST names {architecture!r}; this nvcc knows {', '.join(sorted(known, key=float))}.")
    return wanted


def extensions() -> list[Extension]:
    """The libraries and their sources; an operator with a CUDA kernel has its host code compiled into both."""
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.c*"))
    host = [str(path) for path in sources if path.suffix == ".cpp"]
    device = [str(path) for path in sources if path.suffix == ".cu"]
    both = [str(path.with_suffix(".cpp")) for path in map(Path, device) if (ROOT / path).with_suffix(".cpp").exists()]
    libraries = [Extension("detops._C", host)]
    if device and find_cuda():
        libraries.append(Extension("detops._C_cuda", device + both))
    return libraries


class NinjaBuild(build_ext):
    """Compiles all libraries with one ninja run; a changed file recompiles only what includes it."""

    def get_ext_filename(self, fullname: str) -> str:
        """``_C`` belongs to one version of Python, ``_C_cuda`` to none."""
        if fullname.endswith("_C_cuda"):
            return f"{fullname.replace('.', os.sep)}.so"
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        compiler, compiler_version = find_compiler()
        if not compiler_version:
            fail(f"no C++ compiler: {compiler!r} was not found; install g++ or clang++, or set CXX.")
        torch, torch_version = find_torch()
        headers = {"torch": torch / "include", **find_tool_headers()}
        folder = os.environ.get("DETOPS_BUILD_DIR") or f"build/{sys.implementation.cache_tag}-torch{torch_version}"
        cuda = find_cuda()
        # What `detops info` tells, defined for these files alone: a new version recompiles nothing else.
        facts = {
            "csrc/library.cpp": {
                "DETOPS_VERSION": self.distribution.get_version(),
                "DETOPS_BUILD_TORCH": torch_version,
                "DETOPS_BUILD_CXX": compiler_version,
                "DETOPS_BUILD_NVCC": cuda.version if cuda else "",
            },
            "csrc/core/runtime.cu": {"DETOPS_CUDA_ARCHITECTURES": " ".join(cuda.architectures) if cuda else ""},
        }
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        with (ROOT / folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at a time would spoil each other's objects
            link_headers(ROOT / folder / "include", headers)
            (ROOT / folder / "build.ninja").write_text(ninja_file(folder, self.extensions, facts))
            run_ninja(folder)
            for extension in self.extensions:
                built = ROOT / folder / f"{library_name(extension)}.so"
                target = Path(self.get_ext_fullpath(extension.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # not overwritten: a process may have it loaded
                shutil.copy(built, target)


def find_torch() -> tuple[Path, str]:
    """The folder and version of the torch to build against; torch itself is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        fail("torch is not installed here; pip install 'torch>=2.11' first, or let pip isolate the build.")
    version = importlib.metadata.version("torch")
    if tuple(map(int, version.split(".")[:2])) < (2, 11):
        fail(f"torch 2.11 or newer is needed, torch {version} is installed.")
    return Path(spec.submodule_search_locations[0]), version


def find_tool_headers() -> dict[str, Path]:
    """The folders of pybind11's and Python's headers."""
    try:
        import ninja  # noqa: F401
        import pybind11
    except ImportError as error:
        fail(f"{error.name} is not installed here; pip install ninja pybind11 first, or let pip isolate the build.")
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        fail(f"{python}/Python.h is missing; install Python's headers (python3-dev or the like).")
    return {"pybind11": Path(pybind11.get_include()), "python": python}


def link_headers(folder: Path, headers: dict[str, Path]) -> None:
    """Links to the headers: pip's isolated builds have them elsewhere each time, which must not look like a change."""
    folder.mkdir(exist_ok=True)
    for name, target in headers.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)


def run_ninja(folder: str) -> None:
    """Runs ninja in the project's folder: its paths are relative, so that no machine's paths are compiled in."""
    import ninja

    path = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", os.defpath)])
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    command = [shutil.which("ninja", path=path) or "ninja", "-f", f"{folder}/build.ninja", "-j", jobs]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        fail("compiling failed; the messages above say where.")


def library_name(extension: Extension) -> str:
    """``_C`` or ``_C_cuda``."""
    return extension.name.rpartition(".")[2]


def ninja_file(folder: str, libraries: list[Extension], facts: dict[str, dict[str, str]]) -> str:
    """The text of build.ninja; ``facts`` are string macros by source file."""
    lines = [f"builddir = {folder}", *rules(folder)]
    # torch's libraries are linked by name, from stand-ins: the real ones are in memory before ours are loaded.
    for name in ("torch_cpu", "c10", "torch_cuda"):
        lines += [f"build {folder}/stubs/lib{name}.so: stub", f"  name = lib{name}.so"]
    cuda = find_cuda()
    for library in libraries:
        name, compile_flags, needed, link_flags = library_name(library), [], ["torch_cpu", "c10"], []
        if name == "_C_cuda" and cuda:
            compile_flags = ["-DDETOPS_WITH_CUDA", "-DUSE_CUDA", "-isystem", f"{cuda.home}/include"]
            needed = ["torch_cpu", "c10", "torch_cuda"]
            link_flags = [f"-L{cuda.home}/lib64", "-lcudart_static", "-lrt", "-lpthread", "-ldl"]
        objects = []
        for source in library.sources:
            macros = [f'-D{macro}="{text}"' for macro, text in facts.get(source, {}).items()]
            objects.append(f"{folder}/{name}/{source}.o")
            lines += [
                f"build {objects[-1]}: {Path(source).suffix[1:]} {source}",
                words("flags", macros + compile_flags),
            ]
        stubs = [f"{folder}/stubs/lib{name}.so" for name in needed]
        lines += [f"build {folder}/{name}.so: link {' '.join(objects)} | {' '.join(stubs)}"]
        lines += [words("flags", ["-Wl,--no-as-needed", *stubs, "-Wl,--as-needed", *link_flags])]
    return "\n".join(lines) + "\n"


def words(name: str, values: list[str]) -> str:
    """A variable of build.ninja that holds words for the shell."""
    return f"  {name} = {shlex.join(values).replace('$', '$$')}"


def rules(folder: str) -> list[str]:
    """How to compile .cpp and .cu files, and how to link."""
    compiler, _ = find_compiler()
    cuda = find_cuda()
    headers = [word for name in ("torch", "pybind11", "python") for word in ("-isystem", f"{folder}/include/{name}")]
    cxx_flags, ld_flags = os.environ.get("CXXFLAGS", ""), os.environ.get("LDFLAGS", "")
    depfile = "  depfile = $out.d\n  deps = gcc\n  description = $in"
    host = f"{shlex.join(FLAGS + HOST_FLAGS + headers)} $flags {cxx_flags}"
    lines = [
        "rule cpp",
        f"  command = {compiler} -MMD -MF $out.d {host} -c $in -o $out",
        depfile,
        "rule link",
        f"  command = {compiler} -shared $in -o $out {shlex.join(LINK_FLAGS)} $flags {ld_flags}",
        "  description = $out",
        "rule stub",
        f"  command = {compiler} -shared -nostdlib -Wl,-soname,$name -x c++ /dev/null -o $out",
        "  description = $name",
    ]
    if cuda:
        flags = [*FLAGS, *NVCC_FLAGS, *cuda.code_flags(), *headers]
        if "CXX" in os.environ:
            flags += ["-ccbin", shlex.split(compiler)[-1]]
        command = f"{cuda.home}/bin/nvcc -MMD -MF $out.d {shlex.join(flags)} $flags -c $in -o $out"
        lines += ["rule cu", f"  command = {command}", depfile]
    return lines


# The build backend. `pip install ".[bench]"` and `pip install ".[test]"` each ask for a wheel: the second finds the
# first one's in build/wheels and need not install torch into a throw-away environment to compile the same again.


def cached_wheel() -> Path:
    """The folder for the wheel of exactly these sources, this Python, these compilers and these settings."""
    key = hashlib.sha256()
    for path in packed_files():
        key.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        key.update(path.read_bytes())
    cuda = find_cuda()
    facts = [sys.implementation.cache_tag, sysconfig.get_platform(), find_compiler(), cuda]
    key.update(repr([*facts, *map(os.environ.get, ENVIRONMENT)]).encode())
    return ROOT / "build" / "wheels" / key.hexdigest()[:16]


def packed_files() -> Iterator[Path]:
    """Every file that a wheel is made of."""
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        yield ROOT / name
    for folder in ("benchmarks", "csrc", "detops"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".pyi", ".typed", ".md", ".h", ".cpp", ".cu"):
                yield path


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [] if any(cached_wheel().glob("*.whl")) else BUILD_TOOLS


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return BUILD_TOOLS


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    cache = cached_wheel()
    wheel = next(cache.glob("*.whl"), None)
    if wheel is None:
        for stale in (ROOT / "build").glob("lib*"):  # setuptools would pack modules that are long gone
            shutil.rmtree(stale)
        name = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
        cache.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(wheel_directory, name), cache / f"{name}.part")
        wheel = (cache / f"{name}.part").replace(cache / name)
    else:
        shutil.copy(wheel, wheel_directory)
    return wheel.name


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


if __name__ == "__main__":
    setup(
        packages=[*find_packages(include=["detops", "detops.*"]), "detops.benchmarks"],
        package_dir={"detops.benchmarks": "benchmarks"},
        package_data={"detops": ["*.pyi", "py.typed", "compat/*.md"]},
        ext_modules=extensions(),
        cmdclass={"build_ext": NinjaBuild},
        zip_safe=False,
    )
