#!/usr/bin/env bash
# A run's policy as a Hugging Face folder: `bash scripts/merge.sh RUN_OR_CHECKPOINT OUT [--step N] [--adapter] [--json]`.
# RUN_OR_CHECKPOINT: run.dir, whose newest undamaged checkpoint is taken, or RUN/checkpoints/step_NNNNNN. OUT: a new
# folder. LoRA adapters are added to the weights; the folder is loaded again and compared (docs/runs.md).
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
if [ $# -lt 2 ] || [ -z "$1" ] || [ -z "$2" ]; then
    echo "usage: bash scripts/merge.sh RUN_OR_CHECKPOINT OUT [--step N] [--adapter] [--json]" >&2
    exit 2
fi
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python
exec "$python" -m mars.cli.main ckpt export "$@"
