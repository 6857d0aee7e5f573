#!/usr/bin/env bash
# Everything that only a GPU can tell about the CUDA kernels, in one call and under ten minutes:
#   scripts/check_cuda.sh FOLDER              build, small cases, benchmarks, tests, compute-sanitizer
#   scripts/check_cuda.sh --build FOLDER      only builds FOLDER/site, on a machine without a GPU: whoever takes it
#                                             along spares the GPU's time; used if it runs there, else built again
#   scripts/check_cuda.sh --dry-run FOLDER    what needs no GPU: build, host tests, ptxas
# Needs no network: Python 3.11 or newer with jax's CUDA plugin, flax, optax, pybind11, pytest and, for the rivals,
# torch; cmake, ninja, nvcc; a GPU. PYTHON=python3.12 names the interpreter, SECONDS_IN_ALL=570 the time there is:
# with less, every step has less.
#
# What is worth most comes first. A step has its own limit, and a step that hangs, crashes or fails costs no other.
# FOLDER/summary.txt grows with every step; it is complete, and FOLDER/logs.tar.gz packed, whatever ends the script.
set -uo pipefail
mode=gpu
case ${1:-} in --dry-run | --build) mode=${1#--} && shift ;; esac
[ $# = 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
mkdir -p "$1/logs" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
summary=$out/summary.txt
failed=0
started=$SECONDS
in_all=${SECONDS_IN_ALL:-570}
[ $mode = gpu ] || in_all=5700
reserve=8  # seconds for the last table
export out python mode
rm -rf "$out"/logs/* "$out"/logs.tar.gz
: > "$summary"

say() { printf '%-26s %-22s %4d s\n' "$@" | tee -a "$summary" >&2; }
left() { echo $((in_all - reserve - (SECONDS - started))); }

# begin NAME SECONDS COMMAND...: starts a step; finish NAME tells how it went. Each command leads a process group.
declare -A pid begun limit
begin() {
  local name=$1 most=$(($2 * in_all / 570)) remaining
  shift 2
  remaining=$(left)
  [ "$most" -le "$remaining" ] || most=$remaining
  if [ "$most" -lt 1 ]; then say "$name" "skipped, no time" 0; failed=1; return; fi
  echo "== $name" >&2
  begun[$name]=$SECONDS limit[$name]=$most
  set -m
  "$@" > "$out/logs/$name.log" 2>&1 < /dev/null &
  pid[$name]=$!
  set +m
}
finish() {
  local name=$1 rc end
  [ -n "${pid[$name]:-}" ] || return 1
  end=$((${begun[$name]} + ${limit[$name]}))
  while kill -0 "${pid[$name]}" 2> /dev/null && [ $SECONDS -lt $end ]; do sleep 0.1; done
  if kill -0 "${pid[$name]}" 2> /dev/null; then
    # A process that waits for a GPU that does not answer may outlive even this: it is not waited for.
    kill -TERM -- "-${pid[$name]}" 2> /dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "${pid[$name]}" 2> /dev/null || break; sleep 0.2; done
    kill -KILL -- "-${pid[$name]}" 2> /dev/null
    rc="stopped at ${limit[$name]} s" failed=1
  else
    wait "${pid[$name]}"
    rc=$?
    kill -KILL -- "-${pid[$name]}" 2> /dev/null  # what it left behind
    case $rc in 0) rc=ok ;; *) rc="FAILED ($rc)" failed=1 ;; esac
  fi
  say "$name" "$rc" $((SECONDS - ${begun[$name]}))
  unset "pid[$name]"
  [ "$rc" = ok ] || { tail -n 15 "$out/logs/$name.log" >&2; return 1; }
}
step() { begin "$@"; finish "$1"; }

# The table last: what went wrong, the figures, the steps. Logs of failed steps are in the archive whole.
the_end() {
  trap - EXIT TERM INT
  for group in ${pid[@]+"${pid[@]}"}; do kill -KILL -- "-$group" 2> /dev/null; done
  {
    cat "$out/logs/machine.log" 2> /dev/null
    for log in "$out"/logs/*.log; do
      if grep -q "^$(basename "$log" .log) .*\(FAILED\|stopped\)" "$summary"; then
        printf '\n-- the end of %s\n' "$(basename "$log")"
        tail -n 12 "$log"
      fi
    done
    for log in "$out"/logs/small_cases*.log "$out"/logs/gpu_tests*.log; do
      [ -e "$log" ] && printf '\n-- %s\n' "$(basename "$log")" && tail -n 12 "$log"
    done
    if ls "$out"/logs/bench_*.json > /dev/null 2>&1; then
      echo
      timeout 30 "$python" scripts/bench_cuda.py --join "$out"/logs/bench_*.json 2>&1
    fi
    echo
    cat "$summary"
    printf '\n%s in %d s; everything in %s\n' \
      "$([ $failed = 0 ] && echo "everything passed" || echo "SOMETHING FAILED")" $((SECONDS - started)) "$out/logs"
  } > "$out/summary.all" 2>&1
  mv "$out/summary.all" "$summary"
  tar -C "$out" -czf "$out/logs.tar.gz" logs 2> /dev/null
  echo >&2
  cat "$summary"
  exit $failed
}
trap the_end EXIT
trap 'say "interrupted" "" 0; failed=1; exit 1' TERM INT

machine() {
  "$python" --version
  nvcc --version | tail -n 2
  [ "$mode" != gpu ] || nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.max.sm,memory.total --format=csv
  "$python" - <<'PYTHON'
import importlib.metadata, importlib.util

for name in ("jax", "jaxlib", "jax_cuda13_plugin", "flax", "optax", "torch", "pybind11", "pytest", "xdist", "hypothesis"):
    if importlib.util.find_spec(name) is None:
        print("no Python package", name)
print(*(f"{d} {importlib.metadata.version(d)}" for d in ("jax", "jaxlib", "numpy")))
PYTHON
}
# Whether FOLDER/site works with this Python: it was built elsewhere, or by an earlier call.
site_runs() {
  "$python" -c "from noise2music.kernels.common import native; assert 'cuda' in native.platforms_of('n2m_conv1d_block_fwd')"
}
# A copy of the package in FOLDER/site, so that what is installed here stays as it is. For a GPU that is there only the
# kernels that it runs, and of those for the CPU the plainest; there a compiler's new warning must cost nothing.
build() {
  local here options=(-DN2M_TESTS=ON -DN2M_WERROR=ON)
  here=$("$python" -m pybind11 --cmakedir) || return 1
  if [ "$mode" != dry-run ]; then
    options=(-DN2M_PIPELINE=OFF -DN2M_PROGRAM=OFF -DN2M_BASELINE_ONLY=ON)
    case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1) in
      9.0) options+=(-DCMAKE_CUDA_ARCHITECTURES=90a-real) ;;
      8.*) options+=(-DCMAKE_CUDA_ARCHITECTURES=80-real) ;;
    esac
  fi
  # Architectures side by side where there are processors for it.
  [ "$(nproc)" -lt 4 ] || export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} --threads 4"
  cmake -S . -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNOISE2MUSIC_CUDA=ON \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" -Dpybind11_DIR="$here" "${options[@]}" &&
    cmake --build "$out/build" &&
    rm -rf "$out/site" && mkdir -p "$out/site/noise2music" &&
    cp -r python/noise2music/. "$out/site/noise2music/" &&
    rm -rf "$out/site/noise2music/kernels" && cp -r kernels "$out/site/noise2music/kernels" &&
    cp "$out"/build/_native*.so "$out/site/noise2music/"
}
sanitize() {
  compute-sanitizer --tool "$1" --error-exitcode 9 --kernel-regex kns=n2m_ "$python" scripts/run_small_cases.py
}

step machine 30 machine
export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
if [ $mode != gpu ]; then
  step build 570 build || exit
  [ $mode = build ] && rm -rf "$out/build" && exit
  step host_tests 120 ctest --test-dir "$out/build" --output-on-failure -j "$(nproc)" -R _cuda
  step ptxas 180 "$python" scripts/cuda_static.py --check
  exit
fi

export JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false
# Programs that a step compiled serve the later ones.
export JAX_COMPILATION_CACHE_DIR=$out/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
if [ -d "$out/site" ] && site_runs > "$out/logs/site.log" 2>&1; then
  say build "brought along" 0
else
  step build 300 build || exit
fi
compare() { "$python" scripts/run_small_cases.py --compare; }
if ! step small_cases 75 compare; then
  # Is it the kernels of Hopper alone?
  NOISE2MUSIC_CONV1D_CUDA=mma_sync step small_cases_mma_sync 60 compare
fi
# bench NAME LIMIT: device time beside plain XLA (cuDNN, cuFFT) and PyTorch; scripts/bench_cuda.py lists the rows.
bench() { step "bench_$1" "$2" "$python" scripts/bench_cuda.py "$1" --json "$out/logs/bench_$1.json"; }
bench blocks 110
bench steps 100
bench bandwidth 60
bench training 60
# Tests and sanitizers disturb each other's times, not each other's answers. Small shapes, one program an op and pass;
# memory that XLA hands out is not watched, ours is.
workers=()
"$python" -c 'import xdist' 2> /dev/null && workers=(-n 4)
begin gpu_tests 150 "$python" -m pytest -v -m gpu -p no:cacheprovider ${workers[@]+"${workers[@]}"} \
  tests/kernels/test_cuda.py tests/bench/test_device_time.py
for tool in memcheck racecheck initcheck; do begin "sanitizer_$tool" 150 sanitize $tool; done
for name in gpu_tests sanitizer_memcheck sanitizer_racecheck sanitizer_initcheck; do finish $name; done
# What the plan's choices are worth: the blocks again by the kernel of other GPUs, and by each number of rows.
NOISE2MUSIC_CONV1D_CUDA=mma_sync bench mma_sync 40
for rows in 64 128 192 256; do NOISE2MUSIC_CONV1D_CUDA_ROWS=$rows bench rows_$rows 30; done
