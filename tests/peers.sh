#!/usr/bin/env bash
# Runs mmdet's own detectors, and mmcv.ops, on detops, as a user would have them: in a fresh environment, from pip.
#   tests/peers.sh [PYTEST ARGUMENT...]
# With mmcv-lite 2.1, which is the last that mmdet takes; mmcv.ops of mmcv-lite 2.2 too.
set -euo pipefail
cd "$(dirname "$0")/.."

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONNOUSERSITE=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python=$work/venv/bin/python

start=$SECONDS
"$python" -m pip install --quiet ".[peers,test]"
echo "::: installed in $((SECONDS - start)) s"
"$python" -P -m pytest -q -p no:cacheprovider -m peers tests/compat tests/detectors/test_against_mmdet.py "$@"

"$python" -m pip install --quiet --no-deps --target "$work/newer" mmcv-lite==2.2.0
PYTHONPATH=$work/newer "$python" -P -m pytest -q -p no:cacheprovider -m peers tests/compat/test_mmcv_ops.py
echo "::: all in $((SECONDS - start)) s"
