"""The commands of ``detops`` that work on models: each has a ``main`` of its options that gives the exit status."""
