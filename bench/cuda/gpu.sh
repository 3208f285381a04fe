#!/usr/bin/env bash
# Proof and figures on a machine with an NVIDIA GPU, nvcc, PyTorch and Triton, in under 9 minutes, without network:
#
#   bench/cuda/gpu.sh [FOLDER]  build, tests, compute-sanitizer, benchmark; results into FOLDER (bench/results/gpu)
#   bench/cuda/gpu.sh --dry     without a GPU: build, the checks that run on a CPU, and what was left out
#   bench/cuda/gpu.sh --wheels  on a machine with a network: fetches into .whl/ what the GPU machine may lack
#
# PYTHON (python3) must have torch there. Of the packages in .whl/ those that it lacks are taken; peers that come as
# source packages (fused-lncc) are built.
set -uo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --wheels ]; then
  build="scikit-build-core pybind11 pathspec packaging"
  needed="numpy nibabel safetensors cyclopts attrs docstring-parser rich rich-rst docutils pygments markdown-it-py mdurl"
  needed+=" typing-extensions importlib-resources pytest iniconfig pluggy pytest-benchmark py-cpuinfo pytest-timeout"
  needed+=" matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing python-dateutil six scipy"
  for package in $build $needed monai voxelmorph neurite pystrum fused-lncc; do
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-build-isolation --dest .whl "$package" 2> /dev/null ||
      echo "$package: cannot be fetched"
  done
  du -sh .whl
  exit 0
fi

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
refuses=(bash -c '! "$@"' refuses)

has() { "$python" -c "import $1" 2> /dev/null; }
has torch || { echo "$python has no torch; PYTHON=... names another"; exit 2; }

gpu=no
command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q GPU && gpu=yes
[ $dry = no ] && [ $gpu = no ] && echo "no GPU is visible; bench/cuda/gpu.sh --dry does what needs none" && exit 2
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
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
installed() { "$python" -c "import importlib.metadata as m; m.version('$1')" 2> /dev/null; }
carried=()
for file in .whl/*; do
  [ -e "$file" ] && ! installed "$(basename "$file" | cut -d- -f1)" && carried+=("$file")
done
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$work/carried
pip=("$python" -m pip install --quiet --no-index --no-deps --no-build-isolation)
for kind in whl tar.gz; do # build tools first, what they build after
  for file in "${carried[@]}"; do
    [[ $file = *.$kind ]] && step "carried-$(basename "$file" | cut -d- -f1)" 240 "${pip[@]}" --target "$work/carried" "$file"
  done
done
rm -rf "$site"
offline=(--no-index --no-build-isolation)
[ $dry = yes ] && ! { has scikit_build_core && has pybind11; } && offline=()
step build 400 "$python" -m pip install --quiet --no-deps "${offline[@]}" --target "$site" .
# From another folder, or the source tree would shadow what was built; without site (-S), or an editable installation.
elsewhere=$("$python" -c 'import sys; print(":".join(filter(None, sys.path)))')
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}:$elsewhere
ln -s "$root/bench" "$work/bench" # the benchmarks alone: they are not installed
run=(env -C "$work" "$python" -S)
step doctor 120 "${run[@]}" -m fastreg doctor
[ $nvcc = yes ] && step linked 60 "${run[@]}" -c 'from fastreg import _C; print(_C.__file__, _C.cuda.architectures())'
tests=(env -C "$work" "PYTHONPATH=$PYTHONPATH:$root/tests:$work" "$python" -S -m pytest -q -p no:cacheprovider
  --rootdir "$root" -c "$root/pyproject.toml" --override-ini pythonpath= --import-mode=importlib)

if [ $gpu = yes ]; then
  step tests-cuda 120 "${tests[@]}" "$root/tests/backends/test_cuda.py"
  if has triton && [ -f tests/backends/test_triton.py ]; then
    step tests-triton 150 "${tests[@]}" "$root/tests/backends/test_triton.py"
  else
    skip tests-triton "no Triton, or no tests of it"
  fi
  if command -v compute-sanitizer > /dev/null && [ $nvcc = yes ]; then
    nvcc -std=c++17 -O1 -lineinfo -arch="sm_$FASTREG_CUDA_ARCHITECTURES" -Icsrc bench/cuda/sanitize.cu csrc/cuda/*.cu \
      -o "$work/sanitize" > "$folder/sanitize-build.log" 2>&1 || failed+=(sanitize-build)
    for tool in memcheck racecheck initcheck synccheck; do
      step "$tool" 60 compute-sanitizer --tool $tool --error-exitcode 1 "$work/sanitize"
    done
    step memcheck-control 30 "${refuses[@]}" compute-sanitizer --tool memcheck --error-exitcode 1 "$work/sanitize" short
    step racecheck-control 30 "${refuses[@]}" compute-sanitizer --tool racecheck --error-exitcode 1 "$work/sanitize" race
    step initcheck-control 30 "${refuses[@]}" compute-sanitizer --tool initcheck --error-exitcode 1 "$work/sanitize" unset
    step synccheck-control 30 "${refuses[@]}" compute-sanitizer --tool synccheck --error-exitcode 1 "$work/sanitize" split
  else
    skip compute-sanitizer "not found"
  fi
  left=$((520 - (SECONDS - began)))
  step benchmark $left "${run[@]}" -m bench gpu --output "$folder" --seconds $((left - 40))
  cat "$folder/results.md" 2> /dev/null
else
  step shim 400 "${tests[@]}" "$root/tests/backends/test_cuda_shim.py"
  if has triton && [ -f tests/backends/test_triton.py ]; then
    step triton-interpreter 400 env TRITON_INTERPRET=1 "${tests[@]}" "$root/tests/backends/test_triton.py"
  else
    skip triton-interpreter "no Triton, or no tests of it"
  fi
  if [ $nvcc = yes ]; then
    step sass 400 "$python" -m bench sass --architectures 90
  fi
  for name in tests-cuda tests-triton memcheck racecheck initcheck synccheck benchmark; do skip $name "no GPU"; done
fi

rm -rf "$site"
echo
echo "$((SECONDS - began)) s; results in $folder"
[ ${#skipped[@]} -gt 0 ] && printf 'skipped  %s\n' "${skipped[@]}"
[ ${#failed[@]} -gt 0 ] && printf 'FAILED   %s\n' "${failed[@]}" && exit 1
exit 0
