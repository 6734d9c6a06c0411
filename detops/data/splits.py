"""Which images are held out of training where a data set does not say."""

import hashlib
from collections.abc import Collection

from .._errors import UserError

SHARE = 0.1


def hold_out(names: Collection[str], seed: int) -> set[str]:
    """A tenth of the names, at least one of two: those with the smallest hash of seed and name.

    So the choice is the same on every machine, and a name added moves one other at most.
    """

    def order(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    return set(sorted(names, key=order)[: max(round(SHARE * len(names)), min(len(names) - 1, 1))])


def chosen(names: Collection[str], split: str, seed: int, source: str) -> set[str]:
    """The names of a split: "val" what is held out, "train" the others, "all" both.

    Raises:
        UserError: If it is another split.
    """
    held_out = hold_out(names, seed)
    splits = {"train": set(names) - held_out, "val": held_out, "all": set(names)}
    if split not in splits:
        raise UserError(f"expected split train, val or all of {source}, which has no splits of its own, got {split!r}")
    return splits[split]
