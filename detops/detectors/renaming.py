"""Names of weights, from one library's to another's."""

import re
from collections.abc import Mapping

from torch import Tensor

Rules = tuple[tuple[str, str], ...]  # pattern of a name's beginning and what it becomes; the first that matches counts


def renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """A state dict with other names; those that no rule knows stay."""
    return {_renamed(name, rules): tensor for name, tensor in state.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        new, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            return new
    return name
