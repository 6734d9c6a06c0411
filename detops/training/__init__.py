"""Training on Lightning: what is trained and how, resumable to the same numbers.

:mod:`~detops.training.options` (what to do), :mod:`~detops.training.tasks` (what a batch means),
:mod:`~detops.training.finetune` (which parts learn), :mod:`~detops.training.run` (the loop),
:mod:`~detops.training.checkpoints` (what it leaves).
"""
