#!/usr/bin/env bash
# Score a result file: `bash scripts/eval.sh RESULTS TASK [THRESHOLD] [--json] [--html FILE] [option ...]`.
# RESULTS: what scripts/infer.sh wrote, or a public result file. TASK: a built-in reward (docs/rewards.md).
# THRESHOLD: IoU above which boxes are a hit.
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: bash scripts/eval.sh RESULTS TASK [THRESHOLD] [--json] [--html FILE]" >&2
    exit 2
fi
results=$1 task=$2
shift 2
threshold=()
if [ $# -gt 0 ] && [[ $1 != -* || $1 =~ ^-[0-9.] ]]; then
    threshold=(--threshold "$1")
    shift
fi
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python
exec "$python" -m mars.cli.main eval score "$results" --task "$task" "${threshold[@]}" "$@"
