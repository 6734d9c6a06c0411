#!/usr/bin/env bash
# Everything that a GPU can tell, in less than eight minutes, on a machine that may have no internet:
#   tests/gpu_check.sh [FOLDER]   by default build/gpu_check
# Builds in place for this GPU, runs the tests on it, looks for mistakes with compute-sanitizer, then measures. Leaves
# summary.md, the logs and the benchmark's JSON and page in FOLDER, whatever fails on the way.
# Needs torch 2.11 or newer with CUDA, nvcc, ninja, pybind11, and for the tests pytest, hypothesis, torchvision.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${1:-build/gpu_check}")
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
rows=()
failed=0

note() { # note NAME STATUS SECONDS LOG: a line of the summary
  local result=passed detail
  if [[ $2 == 124 || $2 == 130 ]]; then result="out of time"; elif [[ $2 != 0 ]]; then result="FAILED ($2)"; fi
  [[ $2 == 0 ]] || failed=1
  detail=$(grep -E '(passed|failed|error).* in [0-9.]+s|ERROR SUMMARY|RACECHECK SUMMARY' "$4" | tail -n 2 | tr -d '=' | paste -sd';')
  rows+=("| $1 | $result | ${detail:-} | $3 |")
  write_summary
}

write_summary() {
  {
    echo "# GPU check of detops"
    echo
    cat "$out/machine.md"
    echo
    printf '%s\n' "| step | result | what it said | seconds |" "| --- | --- | --- | --- |" "${rows[@]}"
  } >"$out/summary.md"
}

step() { # step NAME LIMIT COMMAND...: runs it for at most LIMIT seconds, keeps its log, goes on if it fails
  local name=$1 limit=$2 log=$out/${1//[ ,]/_}.log start=$SECONDS status=0
  shift 2
  echo "::: $name"
  # An interrupt first, so that a benchmark saves what it has.
  timeout --signal=INT --kill-after=20 "$limit" "$@" </dev/null >"$log" 2>&1 || status=$?
  tail -n 15 "$log"
  note "$name" "$status" $((SECONDS - start)) "$log"
}

sanitize() { # the four tools side by side: starting Python under them takes longest
  local start=$SECONDS tool status
  local -A pids=()
  echo "::: compute-sanitizer"
  for tool in memcheck racecheck initcheck synccheck; do
    # Each tensor by itself, so that one next to it does not hide an access out of bounds.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 TORCHDYNAMO_DISABLE=1 timeout --kill-after=20 150 \
      compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
      "$python" -P -m pytest tests/test_cuda.py -q -p no:cacheprovider -k small </dev/null >"$out/$tool.log" 2>&1 &
    pids[$tool]=$!
  done
  for tool in memcheck racecheck initcheck synccheck; do
    status=0
    wait "${pids[$tool]}" || status=$?
    tail -n 5 "$out/$tool.log"
    note "$tool" "$status" $((SECONDS - start)) "$out/$tool.log"
  done
}

"$python" - >"$out/machine.md" 2>&1 <<'PYTHON' || { cat "$out/machine.md"; exit 1; }
import datetime, platform, shutil, subprocess, sys
import torch
if not torch.cuda.is_available():
    sys.exit("gpu_check: torch finds no usable CUDA device")
device = torch.cuda.get_device_properties(0)
query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
driver = subprocess.run(query, capture_output=True, text=True).stdout.split() if shutil.which(query[0]) else ["unknown"]
print(f"{datetime.date.today()}: {device.name} (sm_{device.major}{device.minor}, {device.multi_processor_count} SMs, "
      f"{device.L2_cache_size >> 20} MiB L2), driver {driver[0]}, torch {torch.__version__}, Python {platform.python_version()}.")
PYTHON
cat "$out/machine.md"
write_summary

TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
export TORCH_CUDA_ARCH_LIST DETOPS_CUDA=1
step build 200 "$python" setup.py build_ext --inplace
step info 60 "$python" -P -m detops.cli info
step "operator tests on cuda" 150 "$python" -P -m pytest tests/ops -q -p no:cacheprovider -k cuda
step "cuda alone" 90 "$python" -P -m pytest tests/test_cuda.py tests/test_pipeline.py -q -p no:cacheprovider -rs
if command -v compute-sanitizer >/dev/null; then
  sanitize
else
  rows+=("| compute-sanitizer | not run: not installed | | 0 |")
  write_summary
fi
left=$((450 - SECONDS))
step "bench float32" $((left > 60 ? left * 3 / 4 : 45)) "$python" -P -m detops.cli bench --device cuda --seconds 0.15 \
  --save "$out/bench_float32.json" --html "$out/bench_float32.html" --markdown
left=$((460 - SECONDS))
step "bench float16" $((left > 30 ? left : 20)) "$python" -P -m detops.cli bench --device cuda --dtype float16 --quick \
  --seconds 0.1 --save "$out/bench_float16.json" --markdown
cat "$out/summary.md"
exit $failed
