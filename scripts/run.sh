#!/usr/bin/env bash
# Trains a model, on all visible GPUs or on the CPU. Installs what is missing first.
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
train=(-m mlmtune train --config "$config" "$@")

num_gpus=0
case " $* " in
    *" --help "* | *" -h "*) ;;  # starts no training
    *)
        # Asking PyTorch takes seconds, so only a machine with a GPU's driver is asked.
        if [[ -e /dev/nvidiactl || -e /dev/kfd || -e /dev/dxg ]]; then
            num_gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
        fi
        ;;
esac

# exec: a signal to this script reaches Python, which saves the run's state before it ends.
if ((num_gpus > 1)); then
    exec "$PYTHON" -m accelerate.commands.launch --multi_gpu --num_processes "$num_gpus" \
        --num_machines 1 --main_process_port 0 --mixed_precision no --dynamo_backend no \
        "${train[@]}"
fi
exec "$PYTHON" "${train[@]}"
