#!/usr/bin/env bash
# The GPU's tests, then its benchmark: `bash scripts/gpu.sh OUT [--seconds N] [--wheels FOLDER] [--smoke]`.
# OUT: a folder for summary.txt, tests.log, bench.json, bench.log and runs.log. N: all of it takes at most so many
# seconds (540). FOLDER: wheels of packages that are missing on this machine. --smoke: on a CPU, with a tiny model.
# Exit code 0: tests passed and the benchmark ran; 1: one of them failed; 4: packages or a GPU are missing
# (docs/performance.md). MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python3.
set -euo pipefail
SECONDS=0
usage() {
    echo "usage: bash scripts/gpu.sh OUT [--seconds N] [--wheels FOLDER] [--smoke]" >&2
    exit 2
}
[ $# -ge 1 ] && [ -n "$1" ] && [ "${1#-}" = "$1" ] || usage
out=$1 limit=540 wheels='' smoke=''
shift
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) [[ "${2:-}" =~ ^[0-9]+$ ]] || usage; limit=$2; shift 2 ;;
        --wheels) [ -d "${2:-}" ] || usage; wheels=$(readlink -f "$2"); shift 2 ;;
        --smoke) smoke=--smoke; shift ;;
        *) usage ;;
    esac
done
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
mkdir -p "$out"
out=$(readlink -f "$out")
cd "$root"
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python3
work=$(mktemp -d "${TMPDIR:-/tmp}/mars_gpu_XXXXXX") # the model has 7.5 GB: not in OUT
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-cache-dir --target "$work/site" "$wheels"/*.whl
    export PYTHONPATH="$PYTHONPATH:$work/site"
fi
"$python" -m scripts.bench.gpu_packages | tee "$out/summary.txt"

# Tests may take two fifths of the time. They start processes of their own; four at a time where there are the cores.
jobs=$(($(nproc) / 4))
tests=0
timeout -k 10 "$((limit * 2 / 5))" "$python" -m pytest -n "$((jobs > 4 ? 4 : jobs))" --dist load -m "not slow" \
    -o faulthandler_timeout=60 -rs --durations=5 tests/gpu >"$out/tests.log" 2>&1 || tests=$?
echo "tests/gpu: exit code $tests, $(tail -n 1 "$out/tests.log")" | tee -a "$out/summary.txt"

# The first case with an engine that costs no time; then one small step with the engine of transformers.
left=$((limit - SECONDS - 20))
[ "$left" -gt 0 ] || left=1
bench=0
timeout -k 10 "$((left + 10))" "$python" scripts/bench.py gpu ${smoke:+"$smoke"} --cases two_1280x1024 \
    --rollout scripted --variants checkpointing lora no_checkpointing hf_engine colocated --steps 3 --rounds 1 \
    --timeout 200 --budget-seconds "$left" --folder "$work/bench" --json "$out/bench.json" \
    >/dev/null 2>"$out/bench.log" || bench=$?
for log in "$work"/bench/*/run.log; do
    [ -e "$log" ] && { echo "== $log"; tail -n 60 "$log"; }
done >"$out/runs.log"
echo "benchmark: exit code $bench" | tee -a "$out/summary.txt"
if [ -e "$out/bench.json" ]; then
    "$python" -m scripts.bench.gpu_report "$out/bench.json" | tee -a "$out/summary.txt"
else
    tail -n 20 "$out/bench.log"
fi
[ "$bench" -ne 4 ] || exit 4
[ "$tests" -eq 0 ] && [ "$bench" -eq 0 ]
