#!/usr/bin/env bash
# Lint and the CPU tests: `bash scripts/test.sh [pytest arguments]`. Sets up .venv on a fresh machine. Without arguments
# it leaves out the tests marked slow, tests/faults, which kill and resume whole runs, and tests/clusters.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu dev
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=''
bin=.venv/bin
"$bin/ruff" format --check --quiet . || { echo "run .venv/bin/ruff format ." >&2; exit 1; }
"$bin/ruff" check --quiet .
"$bin/pyright" --pythonpath "$bin/python" >/dev/null || { "$bin/pyright" --pythonpath "$bin/python"; exit 1; }
git ls-files -z '*.sh' .ci/run | xargs -0 "$bin/shellcheck"
exec "$bin/python" -m pytest "$@"
