"""Workloads and timing of ``detops bench``; installed as ``detops.benchmarks``.

``bench_<op>.py`` holds an operator's cases and is found by its name. The rest serves all of them: ``common`` (what a
case is), ``workloads`` and ``annotations`` (realistic inputs), ``timing`` and ``runner``, ``results`` (the JSON file),
``table``, ``page`` and ``plots`` (what is shown).
"""
