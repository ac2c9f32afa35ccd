#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster: fills in jobset.yaml and applies it.
#
#   bash launch/gke/train.sh --name=mine --topology=v5p:4x4x4 --image=IMAGE [--slices=1] [--dry_run] -- \
#       --config=configs/finetune_1024.py --workdir=gs://BUCKET/runs/mine ...
#
# The flags after -- are those of launch.train. IMAGE is built from the Dockerfile beside this script.
# Topologies are those of launch.compile_ahead, with four chips a host. --dry_run prints the manifest.
# gs:// was tested against a stand-in, never a real bucket (guides/training.md, "Object storage"); the
# alternative is a volume that all pods mount, added to jobset.yaml.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../usage.sh"
usage_if_asked "$0" "$@"
name='' topology='' image='' slices=1 dry_run=''
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*) name=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    *) echo "error: unknown flag $1; flags of launch.train come after --." >&2; exit 2 ;;
  esac
  shift
done
if [ -z "$name" ] || [ -z "$topology" ] || [ -z "$image" ] || [ $# -eq 0 ]; then
  echo "error: give --name, --topology, --image, and after -- the flags of launch.train." >&2
  exit 2
fi
case "$topology" in
  v5e:*) accelerator=tpu-v5-lite-podslice ;;
  v5p:*) accelerator=tpu-v5p-slice ;;
  v6e:*) accelerator=tpu-v6e-slice ;;
  *) echo "error: --topology is $topology; give v5e:16x16, v5p:4x4x4, v6e:16x16 or the like." >&2; exit 2 ;;
esac
sizes=${topology#*:}
chips=$((${sizes//x/*}))

# A list in JSON is one in YAML; json.dumps knows how to quote.
arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")
manifest=$(NAME=$name SLICES=$slices HOSTS=$((chips / 4)) ACCELERATOR=$accelerator TOPOLOGY=$sizes \
  IMAGE=$image ARGUMENTS=$arguments python3 -c '
import os, pathlib, string, sys
text = pathlib.Path(sys.argv[1]).read_text().replace("$@", "$$@")
print(string.Template(text).substitute(os.environ))' "$(dirname "${BASH_SOURCE[0]}")/jobset.yaml")
if [ -n "$dry_run" ]; then
  echo "$manifest"
else
  kubectl apply -f - <<< "$manifest"
  echo "kubectl logs -f jobset/$name  # what it prints" >&2
fi
