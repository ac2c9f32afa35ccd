#!/usr/bin/env bash
# Trains on all GPUs of this machine, and again after a crash.
#
#   bash launch/gpu.sh [--dry_run] --config=configs/lora.py --workdir=runs/mine ...
#
# The flags are those of launch.train. --dry_run prints what would run.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
dry_run=()
if [ "${1:-}" = --dry_run ]; then
  dry_run=(echo)
  PYTHON=.venv/bin/python
  shift
else
  need_environment no-torch gpu
fi

# JAX takes three quarters of a GPU's memory unless told otherwise: 20 GB of 80 would lie idle.
XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.94}

"${dry_run[@]}" env "XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION" \
  bash launch/restarting.sh "$PYTHON" -m launch.train "$@"
