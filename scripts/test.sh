#!/usr/bin/env bash
# Checks style and types, and runs the tests on all cores. Arguments are passed to pytest:
#
#     bash scripts/test.sh
#     bash scripts/test.sh tests/test_config.py -k override -n 0
set -euo pipefail
MLMTUNE_EXTRAS="quickstart,dedup,cleaning,documents,zh,sentences,probe,entities,onnx,openvino,embed,cluster,ray,tensorboard,trackio,docs,dev"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cd "$ROOT"
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --check --quiet .
"$PYTHON" -m mypy --no-error-summary
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
