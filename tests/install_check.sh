#!/usr/bin/env bash
# Installs pyllm as a user would and runs it: one wheel, built in isolation, into an environment that has torch, where
# no second torch may appear, and into an empty one. TORCH pins the torch that the empty one resolves to.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-torch==2.13.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "$TORCH" > "$work/constraints.txt"
# The second variable is how pip 25.3 and later constrains what isolated builds install.
export PIP_CONSTRAINT="$work/constraints.txt" PIP_BUILD_CONSTRAINT="$work/constraints.txt"
export PIP_DISABLE_PIP_VERSION_CHECK=1

check() {  # check ENVIRONMENT: the installed package works from another folder
  (cd "$work" && "$1/bin/pyllm" info && "$1/bin/python" - <<'PY'
import torch
import pyllm
import pyllm.bench.report
from pyllm.ops import _library, rms_norm
assert _library.LOADED, _library.why_not_loaded()
assert rms_norm(torch.ones(2, 8), torch.ones(8)).shape == (2, 8)
tokenizer = pyllm.Tokenizer.train(["hello hello world"], 260)
assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
PY
  )
}

echo "== a wheel"
"$PYTHON" -m venv "$work/with"
"$work/with/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" .

echo "== into an environment with torch"
"$work/with/bin/pip" install --quiet "$TORCH"
before=$(stat -c %Y "$work"/with/lib/python*/site-packages/torch/version.py)
"$work/with/bin/pip" install --quiet "$work"/*.whl
test "$before" = "$(stat -c %Y "$work"/with/lib/python*/site-packages/torch/version.py)"
check "$work/with"

echo "== into an empty environment"
"$PYTHON" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet "$work"/*.whl
check "$work/empty"
echo "install check passed"
