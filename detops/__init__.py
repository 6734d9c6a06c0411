"""Object detection's performance-critical operators, and detectors built on them."""

from pathlib import Path

import torch

from . import _C as _C

__version__: str = _C.build_info()["version"]

# CUDA kernels live in a library of their own, so that _C also loads where torch has no CUDA.
_cuda_library = Path(__file__).with_name("_C_cuda.so")
if torch.version.cuda is not None and _cuda_library.exists():
    torch.ops.load_library(str(_cuda_library))

from . import ops as ops  # noqa: E402  (its fake and autograd kernels attach to the operators loaded above)
