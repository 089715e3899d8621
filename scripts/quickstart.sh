#!/usr/bin/env bash
# From nothing to a trained tiny model and a report: `bash scripts/quickstart.sh [key=value ...]`.
# Installs mars into .venv, then calls `mars quickstart` with the arguments, which are settings.
# QUICKSTART_DIR: the folder for everything (default runs/quickstart). A second run reuses its complete parts.
set -euo pipefail
started=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu

case ${QUICKSTART_DIR:-} in
"" | /*) ;;
*) export QUICKSTART_DIR=$started/$QUICKSTART_DIR ;;
esac
exec .venv/bin/mars quickstart "$@"
