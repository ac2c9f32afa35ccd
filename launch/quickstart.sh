#!/usr/bin/env bash
# From nothing to an edited picture: photographs, edits, records, training, a report.
#
#   bash launch/quickstart.sh
#
# Needs Python 3.11+ and pip; about 6 minutes on two CPU cores once packages are installed.
# Run it again and it goes on where it was; `rm -r runs/quickstart` starts over.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source launch/usage.sh
usage_if_asked launch/quickstart.sh "$@"
[ $# -eq 0 ] || { echo "error: quickstart.sh takes no arguments, and was given $1." >&2; exit 2; }
need_environment no-torch quickstart

run=runs/quickstart
mkdir -p "$run"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" HF_HUB_OFFLINE=1
# Large pages for the arrays of every step, kept by the process: half as fast again on two cores,
# where a quarter of the time went into the kernel's page faults. Ignored without glibc.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456}"
started=$(date +%s)

for action in run export; do
  "$PYTHON" -m launch.curate "$action" --config=configs/curate_quickstart.py --workdir="$run/edits"
done
"$PYTHON" -m launch.train --config=configs/quickstart.py --workdir="$run/train"
"$PYTHON" -m launch.quickstart_report --edits="$run/edits/export/edits" --workdir="$run/train" \
  --output="$run" --started="$started"
