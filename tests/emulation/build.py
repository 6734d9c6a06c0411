"""Builds the CUDA kernels for the CPU: the .cu files compiled by g++ against the emulation.

    python tests/emulation/build.py plain|address|race|coverage

There are four variants: a plain one; one under AddressSanitizer and UndefinedBehaviorSanitizer; one with the race
detector; one that counts how often each line runs. They lie in ``build/emulated-<variant>``, which ninja keeps up to
date.
"""

import fcntl
import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent.relative_to(ROOT)

# Of the kernels, and of the rest. Optimised, since one kernel runs for every element, but with line numbers.
KERNEL_FLAGS = {
    "plain": ["-O2", "-g1"],
    "address": ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "race": ["-O1", "-g1", "-fsanitize=thread"],
    "coverage": ["-O1", "--coverage"],
}
OTHER_FLAGS = {**KERNEL_FLAGS, "race": ["-O2", "-g1", "-DDETOPS_EMULATE_RACES"], "coverage": ["-O2"]}
LINK_FLAGS = {"plain": [], "address": ["-fsanitize=address,undefined"], "race": [], "coverage": ["--coverage"]}


class BuildError(Exception):
    """The kernels cannot be built here; says why."""


def operators() -> list[str]:
    """The files of csrc/ops that have a CUDA kernel, without their endings."""
    return sorted(path.stem for path in (ROOT / "csrc" / "ops").glob("*.cu"))


@functools.cache
def build(variant: str, target: str) -> Path:
    """Build ``_C_emulated.so``, the operators, or ``selftest``, a program that tests the emulation.

    Raises:
        BuildError: If tools are missing or a file does not compile.
    """
    try:
        setup = _load_setup()
        import ninja
    except ImportError as error:
        raise BuildError(f"{error.name} is not installed") from None
    except SystemExit as error:  # setup.py's way of saying what it lacks
        raise BuildError(str(error)) from None
    compiler, version = setup.find_compiler()
    if not version:
        raise BuildError(f"no C++ compiler: {compiler!r} was not found")
    folder = f"build/emulated-{variant}"
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    with (ROOT / folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        torch, _ = setup.find_torch()
        setup.link_headers(ROOT / folder / "torch", {"include": torch / "include", "lib": torch / "lib"})
        (ROOT / folder / "build.ninja").write_text(_ninja_file(variant, folder, setup))
        command = [shutil.which("ninja", path=ninja.BIN_DIR) or "ninja", "-f", f"{folder}/build.ninja"]
        environment = {**os.environ, "LD_PRELOAD": ""}  # a sanitizer's runtime is not for the compiler
        run = subprocess.run(
            [*command, f"{folder}/{target}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    if run.returncode:
        raise BuildError(f"compiling the emulated kernels failed:\n{run.stdout}{run.stderr}")
    return ROOT / folder / target


def _load_setup() -> ModuleType:
    """setup.py: its flags make the same ABI."""
    spec = importlib.util.spec_from_file_location("detops_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _ninja_file(variant: str, folder: str, setup: ModuleType) -> str:
    compiler, _ = setup.find_compiler()
    common = [flag for flag in (*setup.FLAGS, *setup.HOST_FLAGS) if flag not in ("-O3", "-g0")]
    common += ["-DDETOPS_EMULATE_CUDA", f"-I{HERE}", "-isystem", f"{folder}/torch/include"]
    # A kernel compiled for the CPU has parameters and pragmas that only nvcc has a use for.
    kernel = [*common, "-Wno-unknown-pragmas", *KERNEL_FLAGS[variant], "-x", "c++"]
    other = [*common, *OTHER_FLAGS[variant]]
    depfile = "  depfile = $out.d\n  deps = gcc\n  description = $in"
    lines = [f"builddir = {folder}"]
    for rule, flags in (("kernel", kernel), ("other", other)):
        command = f"{compiler} -MMD -MF $out.d {shlex.join(flags)} -c $in -o $out"
        lines += [f"rule {rule}", f"  command = {command}", depfile]
    link = shlex.join(LINK_FLAGS[variant])
    needed = f"-L{folder}/torch/lib -Wl,--no-as-needed -ltorch_cpu -lc10"
    lines += ["rule shared", f"  command = {compiler} -shared -Wl,-Bsymbolic $in -o $out {link} {needed}"]
    lines += ["rule program", f"  command = {compiler} $in -o $out {link} -ldl"]

    def compile_all(paths: list[str]) -> str:
        objects = []
        for path in paths:
            objects.append(f"{folder}/{path}.o")
            rule = "kernel" if path.endswith(".cu") else "other"
            if f"build {objects[-1]}: {rule} {path}" not in lines:
                lines.append(f"build {objects[-1]}: {rule} {path}")
        return " ".join(objects)

    parts = ["emulator", "meetings", "shared_memory", *(["races"] if variant == "race" else [])]
    emulator = [f"{HERE}/{part}.cpp" for part in parts]
    kernels = [f"csrc/ops/{name}.{ending}" for name in operators() for ending in ("cpp", "cu")]
    lines.append(f"build {folder}/_C_emulated.so: shared {compile_all(emulator + kernels)}")
    lines.append(f"build {folder}/selftest: program {compile_all([*emulator, f'{HERE}/selftest.cu'])}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for target in ("_C_emulated.so", "selftest"):
        try:
            print(build(sys.argv[1], target).relative_to(ROOT))
        except BuildError as error:
            sys.exit(str(error))
