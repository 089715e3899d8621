#!/usr/bin/env bash
# Make or complete the environment in .venv: `bash scripts/setup.sh [extra ...]`, default extra: cpu.
# Uses the configured package sources; adds PyTorch's CPU index only if they lack the CPU build of torch.
set -euo pipefail
started=$(pwd -P)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say_next() {
    local root
    root=$(pwd -P)
    if [ "$root" = "$started" ]; then root=; else root=$(printf '%q/' "$root"); fi
    echo "mars is in ${root}.venv; before you type mars or python, type: source ${root}.venv/bin/activate" >&2
}

torch=2.13.0+cpu
[ $# -gt 0 ] || set -- cpu
extras=$(IFS=,; echo "$*")
wanted=$(cat pyproject.toml scripts/setup.sh scripts/repair_torch_companions.py | cksum)
# The stamp .venv/.mars:EXTRA:EXTRA... names the installed extras and holds a checksum of the files above.
for stamp in .venv/.mars:*; do
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        complete=yes
        for extra in "$@"; do
            [[ "$stamp:" == *":$extra:"* ]] || complete=no
        done
        if [ "$complete" = yes ]; then
            say_next
            exit 0
        fi
    fi
done

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "scripts/setup.sh: Python 3.11 or newer is needed; got $("$python" --version 2>&1); set PYTHON=/path/to/python" >&2
    exit 4
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)

echo "installing mars with extras $extras into .venv (a few minutes the first time)" >&2
sources=()
if [[ ",$extras," == *,cpu,* ]] && ! .venv/bin/python -c "import torch, sys; sys.exit(torch.__version__ != '$torch')" 2>/dev/null; then
    found=$(mktemp -d)
    if ! "${pip[@]}" download --quiet --no-deps --dest "$found" "torch==$torch" >/dev/null 2>&1; then
        echo "the configured package sources have no torch $torch; adding PyTorch's CPU index" >&2
        sources=(--extra-index-url https://download.pytorch.org/whl/cpu)
    fi
    rm -rf "$found"
fi
# --no-compile: bytecode is compiled at the first import, and most modules are never imported.
"${pip[@]}" install --quiet --progress-bar on --no-compile "${sources[@]}" -e ".[$extras]"
.venv/bin/python scripts/repair_torch_companions.py
echo "$wanted" >".venv/.mars:${extras//,/:}"
say_next
