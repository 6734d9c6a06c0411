"""torchvision's detectors, unchanged, and code written for ``torchvision.ops``, on the operators of detops.

``patch()`` once, or ``with patch():`` for a while. ``torchvision.md``, beside this package, says what is reached, and
how.
"""

try:
    import torchvision as _torchvision  # noqa: F401
except ImportError as error:
    raise ImportError('torchvision is to be patched, but not installed: pip install "detops[detectors]"') from error

from .patching import is_patched as is_patched
from .patching import patch as patch
from .patching import unpatch as unpatch
