#!/usr/bin/env bash
# Run a training on a Ray cluster: `bash scripts/ray_submit.sh [--address ADDRESS] [--no-wait] -- EXPERIMENT key=value ...`.
# It checks the settings, sends them with the files of this folder, prints what the run prints, and ends with the exit
# code of the run. Ctrl-C stops the run, which saves its state; `--resume RUN` goes on with it. `--follow JOB` and
# `--stop JOB` are for jobs that run already. All options: `bash scripts/ray_submit.sh --help` (docs/clusters.md).
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python
export MARS_SCRIPT=$0
exec "$python" -m mars.cli.main ray submit "$@"
