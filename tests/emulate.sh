#!/usr/bin/env bash
# Runs the operator tests on the emulated CUDA kernels:
#   tests/emulate.sh plain|address|race|coverage [pytest arguments]
# address: under AddressSanitizer and UndefinedBehaviorSanitizer; race: with the race detector of the emulation;
# coverage: fails if a line of a kernel never ran.
# Uses the Python that is active; it must have detops and the packages of its tests. (-P: not the source tree, unless
# PYTHONPATH names it.)
set -euo pipefail
cd "$(dirname "$0")/.."

export DETOPS_EMULATION=${1:-}
selection="not large and not long"
case $DETOPS_EMULATION in
  plain) preload= ;;
  coverage)
    preload=
    export TORCHDYNAMO_DISABLE=1 # the kernels are the same
    ;;
  race)
    preload=
    export TORCHDYNAMO_DISABLE=1
    selection+=" and not one_instruction_set" # how torch sees an operator
    ;;
  address)
    # Python itself is not instrumented, so the runtime has to be there before it starts; libstdc++ is what throws.
    preload=$(for library in libasan.so libubsan.so libstdc++.so; do ${CXX:-c++} -print-file-name="$library"; done | paste -sd:)
    export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    # The compiler of torch.compile would be slowed down tenfold, and the kernels are the same.
    export TORCHDYNAMO_DISABLE=1
    selection+=" and not one_instruction_set"
    ;;
  *)
    echo "usage: tests/emulate.sh plain|address|race|coverage [pytest arguments]" >&2
    exit 2
    ;;
esac
shift

if [[ $DETOPS_EMULATION == coverage ]]; then find build/emulated-coverage -name "*.gcda" -delete 2>/dev/null || true; fi
# --capture=sys leaves the sanitizers' reports alone.
LD_PRELOAD=$preload python -P -m pytest tests/ops -k emulated -m "$selection" --capture=sys -p no:cacheprovider "$@"
if [[ $DETOPS_EMULATION == coverage ]]; then python tests/emulation/coverage.py; fi
