#!/usr/bin/env bash
# Build the documentation as a site, strictly: `bash scripts/site.sh [OUT]`; default OUT: site. Its packages, those of
# the extra `docs`, go to build/site_packages and not into .venv. Exit code 4: they could not be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-site}")
packages=$PWD/build/site_packages
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
extra=$("$python" -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')")
if [ "$extra" != "$(cat "$packages/extra.txt" 2>/dev/null)" ]; then
    rm -rf "$packages"
    mapfile -t wanted <<<"$extra"
    "$python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --retries 2 --timeout 20 \
        --root-user-action=ignore \
        --target "$packages" "${wanted[@]}" || {
        echo "site.sh: cannot install ${wanted[*]}; the site is not built" >&2
        exit 4
    }
    printf '%s\n' "$extra" >"$packages/extra.txt"
fi
NO_MKDOCS_2_WARNING=1 PYTHONPATH=$packages "$python" -m mkdocs build --strict --quiet --site-dir "$out"
echo "wrote $out/index.html"
