"""The emulated CUDA kernels behind the public functions: ``with emulated(): detops.ops.nms(...)``."""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator

import torch
from emulation import build

VARIANTS = tuple(build.KERNEL_FLAGS)


def variant() -> str:
    """The one that DETOPS_EMULATION names, by default the plain one."""
    name = os.environ.get("DETOPS_EMULATION", "plain")
    if name not in VARIANTS:
        raise ValueError(f"DETOPS_EMULATION must be one of {', '.join(VARIANTS)}, got {name!r}")
    return name


@functools.cache
def load() -> list[str]:
    """Build and load the kernels as ``torch.ops.detops_emulated``; the names of the operators.

    Raises:
        BuildError: If they cannot be built or run here.
    """
    if variant() == "address" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        raise build.BuildError("the variant 'address' needs libasan.so in LD_PRELOAD: use tests/emulate.sh")
    torch.ops.load_library(str(build.build(variant(), "_C_emulated.so")))
    names = [name.split("::") for name in torch._C._dispatch_get_all_op_names()]
    return [name for namespace, name in names if namespace == "detops_emulated"]


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Within, operators of detops with a CUDA kernel run it on tensors of the CPU."""
    library = torch.library.Library("detops", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name in load():
            library.impl(name, getattr(torch.ops.detops_emulated, name), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()
