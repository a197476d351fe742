#!/usr/bin/env bash
# Installs what is missing, then trains a model, on all visible GPUs or on the CPU.
#
#     bash scripts/run.sh [CONFIG] [section.key=value ...] [--flags ...]
#
#     bash scripts/run.sh
#     bash scripts/run.sh configs/azure.yaml training.epochs=1
#     CUDA_VISIBLE_DEVICES=0 bash scripts/run.sh configs/azure.yaml --resume auto
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

config="$ROOT/configs/quickstart.yaml"
if [[ $# -gt 0 && ( -e "$1" || "$1" != -* && "$1" != *=* ) ]]; then
    config="$1"
    shift
fi
# exec: a signal to this script reaches Python, which saves the run's state before it ends.
exec "$PYTHON" -m mlmtune train --nproc auto --config "$config" "$@"
