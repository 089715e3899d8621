#!/usr/bin/env bash
# Ask a model questions and keep its answers: `bash scripts/infer.sh MODEL QUESTIONS OUT [--views multi|mono|all] [--like RUN] [key=value ...]`.
# QUESTIONS: parquet, JSONL or an evaluation file of the paper (.json). OUT: a folder, or a .json file. A second call goes
# on where the first ended. Settings are those of training, such as rollout=hf or experiment=NAME, or those of RUN.
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
if [ $# -lt 3 ] || [ -z "$1" ] || [ -z "$2" ] || [ -z "$3" ]; then
    echo "usage: bash scripts/infer.sh MODEL QUESTIONS OUT [--views multi|mono|all] [--like RUN] [key=value ...]" >&2
    exit 2
fi
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python
exec "$python" -m mars.cli.main eval infer "$@"
