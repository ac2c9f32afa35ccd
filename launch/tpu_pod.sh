#!/usr/bin/env bash
# Trains on all workers of a TPU slice (Cloud TPU VMs, by gcloud), and again after a crash.
#
#   bash launch/tpu_pod.sh start --tpu=NAME --zone=ZONE [--project=PROJECT] [--dry_run] -- \
#       --config=configs/finetune_1024.py --workdir=/mnt/BUCKET/runs/mine ...
#   bash launch/tpu_pod.sh log  --tpu=NAME --zone=ZONE     # what worker 0 prints
#   bash launch/tpu_pod.sh stop --tpu=NAME --zone=ZONE     # a checkpoint, then the end
#
# The flags after -- are those of launch.train. `start` copies this working tree (what git knows) to
# every worker, installs it, and starts training there in the background, so this machine may go to
# sleep. Make the slice before, say:
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5p-128 --version=v2-alpha-tpuv5
# (v5p names count cores: v5p-128 has 64 chips, the topology v5p:4x4x4.)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/usage.sh
usage_if_asked launch/tpu_pod.sh "$@"
verb=${1:-}
shift || true
tpu='' zone='' project='' dry_run=''
usage_if_asked launch/tpu_pod.sh "$@"
while [ $# -gt 0 ]; do
  case "$1" in
    --tpu=*) tpu=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --) shift; break ;;
    *) echo "error: unknown flag $1; flags of launch.train come after --." >&2; exit 2 ;;
  esac
  shift
done
if [ -z "$tpu" ] || [ -z "$zone" ]; then
  echo "error: give --tpu=NAME and --zone=ZONE." >&2
  exit 2
fi
where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")

run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
on_workers() {  # WORKERS COMMAND
  run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker="$1" --command="$2"
}

case "$verb" in
  start)
    [ $# -gt 0 ] || { echo "error: give the flags of launch.train after --." >&2; exit 2; }
    tree=$(mktemp -d)/step1x_jax.tar.gz
    run bash -c 'git ls-files -z | tar --null --files-from=- -czf "$0"' "$tree"
    run gcloud compute tpus tpu-vm scp "$tree" "$tpu:step1x_jax.tar.gz" "${where[@]}" --worker=all
    # The compiler's options are the code's (parallel/compiler_options.py), not the environment's.
    # TPU logs tell of a lost peer on every worker; warnings and worse are enough.
    train="env TPU_MIN_LOG_LEVEL=1 bash launch/restarting.sh .venv/bin/python -m launch.train --distributed"
    on_workers all "mkdir -p step1x_jax && cd step1x_jax && tar xzf ../step1x_jax.tar.gz &&
source launch/environment.sh && need_environment no-torch tpu gcs &&
{ setsid nohup $train $(printf '%q ' "$@") > train.log 2>&1 < /dev/null & }"
    ;;
  log) on_workers 0 "tail -n 100 -f step1x_jax/train.log" ;;
  # to the shell around Python, which hands it on once; a second one would end the run at once
  stop) on_workers all "pkill -TERM -f '[r]estarting.sh'" ;;
  *) echo "error: give start, log or stop, see --help." >&2; exit 2 ;;
esac
