#!/usr/bin/env bash
# A Ray node on this machine: `bash scripts/ray_up.sh head`, `bash scripts/ray_up.sh worker ADDRESS` on every other
# machine, and `bash scripts/ray_up.sh stop`. It checks ports, shared memory, limits, GPUs, the token and versions first,
# and prints the next command. Options: `bash scripts/ray_up.sh head --help` (docs/clusters.md).
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
case ${1:-} in
head | worker | stop) ;;
-h | --help) set -- --help ;;
*)
    echo "usage: bash scripts/ray_up.sh head | worker ADDRESS | stop [options]" >&2
    exit 2
    ;;
esac
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python
"$python" -c 'import mars, ray' 2>/dev/null || {
    echo "scripts/ray_up.sh: '$python' has no mars or no ray; run bash $root/scripts/setup.sh, or set MARS_PYTHON" >&2
    exit 4
}
export MARS_SCRIPT=$0
exec "$python" -m mars.cli.main ray "$@"
