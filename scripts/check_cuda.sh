#!/usr/bin/env bash
# Everything that only a GPU can tell about the CUDA kernels, in one call and under ten minutes:
#   scripts/check_cuda.sh FOLDER
# builds the library with CUDA, runs the tests marked gpu, compute-sanitizer and the benchmark, and writes
# FOLDER/summary.txt, which it also prints last. Needs no network: Python 3.11 or newer with jax's CUDA
# plugin, pybind11, scikit-build-core, pytest and (for the rivals) torch; cmake, ninja, nvcc; a GPU.
#   PYTHON=python3.12 scripts/check_cuda.sh FOLDER
#   scripts/check_cuda.sh --dry-run FOLDER    only the steps that need no GPU: build, host tests, ptxas
set -uo pipefail
dry=
[ "${1:-}" = --dry-run ] && dry=1 && shift
[ $# = 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
summary=$out/summary.txt
: > "$summary"
failed=0
started=$SECONDS

# step NAME SECONDS COMMAND...: runs it within its time, keeps what it says, and tells how it went.
step() {
  local name=$1 limit=$2 begun=$SECONDS rc
  shift 2
  local left=$((590 - (SECONDS - started)))
  [ -n "$dry" ] || [ "$left" -ge "$limit" ] || limit=$((left > 1 ? left : 1))
  echo "== $name" >&2
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1
  rc=$?
  case $rc in
    0) rc=ok ;;
    124 | 137) rc="stopped after $limit s" failed=1 ;;
    *) rc="FAILED ($rc)" failed=1 ;;
  esac
  printf '%-26s %-20s %4d s\n' "$name" "$rc" $((SECONDS - begun)) | tee -a "$summary" >&2
  [ "$rc" = ok ] || tail -n 15 "$out/$name.log" >&2
}

{
  "$python" --version
  nvcc --version | tail -n 2
  [ -n "$dry" ] || nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv
} > "$out/machine.txt" 2>&1

# A copy of the package in FOLDER, so that what is installed here stays as it is.
build() {
  local here
  here=$("$python" -m pybind11 --cmakedir) || return 1
  cmake -S . -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNOISE2MUSIC_CUDA=ON -DN2M_WERROR=ON -DN2M_TESTS=ON \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" -Dpybind11_DIR="$here" &&
    cmake --build "$out/build" &&
    rm -rf "$out/site" && mkdir -p "$out/site/noise2music" &&
    cp -r python/noise2music/. "$out/site/noise2music/" &&
    rm -rf "$out/site/noise2music/kernels" && cp -r kernels "$out/site/noise2music/kernels" &&
    cp "$out"/build/_native*.so "$out/site/noise2music/"
}
export -f build
export out python
step build 300 bash -c build
step host_tests 120 ctest --test-dir "$out/build" --output-on-failure -j 8 -R _cuda

export PYTHONPATH=$out/site
if [ -z "$dry" ]; then
  export JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false
  step gpu_tests 150 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/kernels tests/bench
  # Small shapes, one program an op and pass; memory that XLA hands out is not watched, ours is.
  for tool in memcheck racecheck initcheck; do
    step "sanitizer_$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=n2m_ \
      "$python" scripts/run_small_cases.py
  done
  # bench NAME LIMIT ARGUMENTS: device time beside plain XLA (cuDNN, cuFFT) and PyTorch.
  bench() {
    local name=$1 limit=$2
    shift 2
    step "bench_$name" "$limit" "$python" -m noise2music bench "$@" --platform cuda --quick --json "$out/bench_$name.json"
  }
  bench combine_film 50 combine_film --dtype all --passes all --case 'wavgen_*' --rivals xla torch
  bench ancestral_step 30 ancestral_step --rivals xla torch
  bench fft_upsample 30 fft_upsample --rivals xla torch
  bench conv1d_block 90 conv1d_block --dtype bfloat16 --case 'waveform_generator.*.block' 'spectrogram_generator.*.block' \
    --rivals xla torch
  bench conv1d_block_both 60 conv1d_block --dtype bfloat16 --passes both --case 'waveform_generator.*.block' --rivals xla
  bench sampler 60 sampler --dtype bfloat16 --case waveform_generator spectrogram_generator --rivals xla
else
  step ptxas 300 "$python" scripts/cuda_static.py --check
fi

for log in "$out"/bench_*.log; do
  [ -e "$log" ] && { echo; cat "$log"; } >> "$summary"
done
printf '\n%s in %d s; logs in %s\n' "$([ $failed = 0 ] && echo "everything passed" || echo "SOMETHING FAILED")" \
  $((SECONDS - started)) "$out" >> "$summary"
echo >&2
cat "$out/machine.txt" "$summary"
exit $failed
