#!/usr/bin/env bash
# Builds one wheel and runs the operator tests with it under each supported torch, in fresh environments:
#   tests/compat.sh [TORCH...]   by default 2.11.0, 2.13.0 (CPU-only, where pip finds such a file) and the newest
# On the widest instruction set only: kernels know nothing of torch.
# Prints a Markdown table; ends with an error if a test failed or torch could not be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A torchvision=([2.11.0]=0.26.0 [2.12.0]=0.27.0 [2.13.0]=0.28.0 [2.14.0]=0.29.0)
versions=("$@")
if [[ ${#versions[@]} == 0 ]]; then versions=(2.11.0 2.13.0 newest); fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONNOUSERSITE=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/*.whl)

rows=()
failed=0
for version in "${versions[@]}"; do
  echo "::: torch $version" >&2
  python=$work/venv/bin/python
  python3 -m venv --clear "$work/venv"
  install() { "$python" -m pip install --quiet "$@" >&2; }

  result="not installed"
  if [[ $version == newest ]]; then requirement=torch; else requirement="torch==$version"; fi
  if install "$requirement" && install "$wheel" hypothesis ninja numpy pytest pytest-benchmark setuptools; then
    # torchvision's compiled part fits one build of torch; a CPU-only torch goes with a CPU-only torchvision or none.
    cuda=$("$python" -c "import torch; print(torch.version.cuda or 'CPU-only')")
    if [[ $version == newest ]]; then
      install torchvision
    elif [[ $cuda != CPU-only ]]; then
      install "torchvision==${torchvision[$version]:?no torchvision known for torch $version}"
    fi
    log=$work/tests.log
    "$python" -P -m pytest tests/ops -q --widest -p no:cacheprovider -m "not large and not long" 2>&1 | tee "$log" >&2 || failed=1
    result=$(grep -E '(passed|failed|error).* in [0-9.]+s' "$log" | tail -n 1 | tr -d =)
    version=$("$python" -c "import torch; print(torch.__version__)")
  else
    failed=1 cuda=
  fi
  rows+=("| $version | $cuda | ${result:-no test ran} |")
done

printf '%s\n' "| torch | CUDA | operator tests |" "| --- | --- | --- |" "${rows[@]}"
exit $failed
