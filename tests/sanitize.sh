#!/usr/bin/env bash
# Runs operator tests on a build that aborts at the first mistake in our own code:
#   tests/sanitize.sh address [pytest arguments]   reading or writing out of bounds, undefined behaviour
#   tests/sanitize.sh thread [pytest arguments]    data races; our loops then run on plain threads, which the detector sees
# Uses the Python that is active; it must have torch, ninja, pybind11, setuptools and the packages of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-}
case $kind in
  address)
    flags="-fsanitize=address,undefined -fno-sanitize-recover=all"
    libraries=(libasan.so libubsan.so libstdc++.so)
    selection="not large and not slow"
    ;;
  thread)
    flags="-fsanitize=thread -DDETOPS_SANITIZE_THREADS"
    libraries=(libtsan.so libstdc++.so)
    selection="threads and not large"
    ;;
  *)
    echo "usage: tests/sanitize.sh address|thread [pytest arguments]" >&2
    exit 2
    ;;
esac
shift

# The widest vectors reach furthest; tests of the others would say the same once more, and building them takes long.
widest=baseline
for set in avx2 avx512f; do if grep -qw "$set" /proc/cpuinfo; then widest=${set%f}; fi; done
if [[ $widest != baseline ]]; then flags+=" -DDETOPS_ONLY_${widest^^}"; fi

package=build/sanitize-$kind
rm -rf "$package/detops"
DETOPS_BUILD_DIR=$package/objects DETOPS_CUDA=0 LDFLAGS="$flags" \
  CXXFLAGS="$flags -O1 -g1 -fno-omit-frame-pointer -Wno-tsan" \
  python setup.py --quiet build --build-lib "$package" --build-temp "$package/setuptools"

# Python itself is not instrumented, so the runtime has to be there before it starts; libstdc++ is what throws.
preload=$(for library in "${libraries[@]}"; do ${CXX:-c++} -print-file-name="$library"; done | paste -sd:)
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# torch and its OpenMP are not instrumented: what they do to their own data is not for us to judge.
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1
# The compiler of torch.compile would be slowed down tenfold, and the kernels are the same.
export TORCHDYNAMO_DISABLE=1

# The race detector's shadow memory must not meet a randomly placed library.
fixed_addresses=()
if setarch --addr-no-randomize true 2>/dev/null; then fixed_addresses=(setarch --addr-no-randomize); fi

# -P keeps the repository's own detops, which has no compiled part, out of sys.path; --capture=sys leaves the report alone.
PYTHONPATH=$package LD_PRELOAD=$preload "${fixed_addresses[@]}" \
  python -P -m pytest tests/ops --capture=sys -p no:cacheprovider -m "$selection" \
  -k "not emulated and not cpu- or cpu-$widest" "$@"
