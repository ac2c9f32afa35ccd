#!/usr/bin/env bash
# Trains on all GPUs of this machine, and again after a crash.
#
#   bash launch/gpu.sh [--dry_run] --config=configs/lora.py --workdir=runs/mine ...
#
# The flags are those of launch.train. --dry_run prints what would run. Makes .venv and installs the
# packages with the extra [gpu] once: gigabytes, with CUDA 13, which needs NVIDIA's driver 580 or newer.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source launch/usage.sh
usage_if_asked launch/gpu.sh "$@"
dry_run=()
if [ "${1:-}" = --dry_run ]; then
  dry_run=(echo)
  shift
fi
case " $*" in
  *" --config"*) ;;
  *) echo "error: --config=configs/NAME.py is missing (given: $*); see --help." >&2; exit 2 ;;
esac
if [ ${#dry_run[@]} -gt 0 ]; then
  PYTHON=.venv/bin/python
else
  need_environment no-torch gpu
fi

# JAX takes three quarters of a GPU's memory unless told otherwise: 20 of 80 GB would stay unused.
XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.94}

"${dry_run[@]}" env "XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION" \
  bash launch/restarting.sh "$PYTHON" -m launch.train "$@"
