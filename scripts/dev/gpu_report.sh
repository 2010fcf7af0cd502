#!/usr/bin/env bash
# All that only a GPU can show, in one command: see scripts/dev/gpu_report.py --help.
# PYTHON names the interpreter (default: the project's environment, else python3); WHEELS, a folder of wheels to install
# first, for a machine without a network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
fi
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
cd "$root"
# A checkout that was never installed has no native decoder yet; the report says which decoder reads.
if ! compgen -G "imgcls/data/decoding/_native*.so" >/dev/null; then
    "$python" -m imgcls.data.decoding.native build || true
fi
exec "$python" "$here/gpu_report.py" "$@"
