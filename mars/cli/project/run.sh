#!/usr/bin/env bash
# Train, from any folder: `bash run.sh [--dry-run] [key=value ...]`. Paths in settings start at the folder of this script.
# MARS_PYTHON: the Python in which mars is installed; default: python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python=${MARS_PYTHON:-python}
"$python" -c 'import mars' 2>/dev/null || {
    echo "run.sh: '$python' has no mars; activate its environment, or set MARS_PYTHON" >&2
    exit 4
}
if [ ! -d tiny_model ]; then
    "$python" -m mars.cli.main data synth tiny_model.part --model tiny --seed 0
    mv tiny_model.part tiny_model
fi
exec "$python" -m mars.main --config-dir configs experiment=first "$@"
