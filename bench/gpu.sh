#!/usr/bin/env bash
# Proof and figures on a machine with an NVIDIA GPU, nvcc, PyTorch and Triton, in under 9 minutes, without network:
#
#   bench/gpu.sh [FOLDER]      build, tests, compute-sanitizer, benchmark; results into FOLDER (bench/results/gpu)
#   bench/gpu.sh --dry         without a GPU: build, the checks that run on a CPU, and what was left out
#
# PYTHON (python3) must have torch, scikit-build-core, pybind11, numpy, pytest and the other dependencies of fastreg.
set -uo pipefail
cd "$(dirname "$0")/.."

dry=no
if [ "${1:-}" = --dry ]; then
  dry=yes
  shift
fi
folder=$(realpath -m "${1:-bench/results/gpu}")
python=${PYTHON:-python3}
began=$SECONDS
failed=()
skipped=()
mkdir -p "$folder"

# step NAME SECONDS COMMAND...: runs it with its output in a file of its own, and goes on if it fails.
step() {
  local name=$1 limit=$2 from=$SECONDS
  shift 2
  printf '%-28s' "$name"
  if timeout "$limit" "$@" > "$folder/$name.log" 2>&1; then
    echo "ok      $((SECONDS - from)) s"
  else
    echo "FAILED  $((SECONDS - from)) s, see $folder/$name.log"
    failed+=("$name")
  fi
}

skip() {
  printf '%-28sskipped: %s\n' "$1" "$2"
  skipped+=("$1: $2")
}

# Passes if the command fails: a planted bug must be found.
refuses() { ! "$@"; }

has() { "$python" -c "import $1" 2> /dev/null; }

gpu=no
command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q GPU && gpu=yes
[ $dry = no ] && [ $gpu = no ] && echo "no GPU is visible; bench/gpu.sh --dry does what needs none" && exit 2
nvcc=no
command -v nvcc > /dev/null && nvcc=yes

# ---- build: machine code for this GPU alone, it is the quickest
site=$folder/site
if [ $nvcc = yes ]; then
  if [ $gpu = yes ]; then
    FASTREG_CUDA_ARCHITECTURES=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  else
    FASTREG_CUDA_ARCHITECTURES=90
  fi
  export FASTREG_CUDA_ARCHITECTURES FASTREG_CUDA=ON
else
  skip cuda-build "no nvcc"
  export FASTREG_CUDA=OFF
fi
rm -rf "$site"
step build 240 "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$site" .
# From another folder, or the source tree would shadow what was built.
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} FASTREG_ROOT=$PWD
root=$PWD
pytest=("$python" -m pytest -q -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" --import-mode=importlib)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run_tests() {
  (cd "$work" && PYTHONPATH=$site:$root/tests:$root/bench "${pytest[@]}" "$@")
}

if [ $gpu = yes ]; then
  step tests-cuda 120 run_tests "$root/tests/test_cuda.py"
  if has triton && [ -f tests/test_triton.py ]; then
    step tests-triton 150 run_tests "$root/tests/test_triton.py"
  else
    skip tests-triton "no Triton, or no tests of it"
  fi
  if command -v compute-sanitizer > /dev/null && [ $nvcc = yes ]; then
    nvcc -std=c++17 -O1 -lineinfo -arch="sm_$FASTREG_CUDA_ARCHITECTURES" -Icsrc bench/sanitize.cu csrc/cuda/*.cu \
      -o "$work/sanitize" > "$folder/sanitize-build.log" 2>&1 || failed+=(sanitize-build)
    for tool in memcheck racecheck initcheck synccheck; do
      step "$tool" 60 compute-sanitizer --tool $tool --error-exitcode 1 "$work/sanitize"
    done
    step memcheck-control 30 refuses compute-sanitizer --tool memcheck --error-exitcode 1 "$work/sanitize" short
    step racecheck-control 30 refuses compute-sanitizer --tool racecheck --error-exitcode 1 "$work/sanitize" race
    step initcheck-control 30 refuses compute-sanitizer --tool initcheck --error-exitcode 1 "$work/sanitize" unset
    step synccheck-control 30 refuses compute-sanitizer --tool synccheck --error-exitcode 1 "$work/sanitize" split
  else
    skip compute-sanitizer "not found"
  fi
  left=$((520 - (SECONDS - began)))
  step benchmark $left "$python" bench/gpu.py --output "$folder" --seconds $((left - 40))
  cat "$folder/results.md" 2> /dev/null
else
  step shim 400 run_tests "$root/tests/test_cuda_shim.py"
  if has triton && [ -f tests/test_triton.py ]; then
    step triton-interpreter 200 env TRITON_INTERPRET=1 bash -c "$(declare -f run_tests); $(declare -p pytest root site work); run_tests '$root/tests/test_triton.py'"
  else
    skip triton-interpreter "no Triton, or no tests of it"
  fi
  if [ $nvcc = yes ]; then
    step sass 400 "$python" bench/sass.py --architectures 90
  fi
  for name in tests-cuda tests-triton memcheck racecheck initcheck synccheck benchmark; do skip $name "no GPU"; done
fi

rm -rf "$site"
echo
echo "$((SECONDS - began)) s; results in $folder"
[ ${#skipped[@]} -gt 0 ] && printf 'skipped  %s\n' "${skipped[@]}"
[ ${#failed[@]} -gt 0 ] && printf 'FAILED   %s\n' "${failed[@]}" && exit 1
exit 0
