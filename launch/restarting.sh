#!/usr/bin/env bash
# Runs a command, and again when it dies of what a restart can fix: a lost peer, a machine's hiccup.
# Training goes on from its newest checkpoint.
#
#   bash launch/restarting.sh [--tries=N] [--wait=SECONDS] COMMAND...
#
# Not run again: 0 is done; 1 is a sentence that somebody has to read; 2 is a wrong flag; 130 and 143
# were asked for (Ctrl-C, SIGTERM). A run that lasted ten minutes gets all its tries back.

set -u
source "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage_if_asked "$0" "$@"
tries=10 wait=10
while [[ "${1:-}" == --*=* ]]; do
  case "$1" in
    --tries=*) tries=${1#*=} ;;
    --wait=*) wait=${1#*=} ;;
    *) echo "error: unknown flag $1; use --tries=N or --wait=SECONDS." >&2; exit 2 ;;
  esac
  shift
done
[ $# -gt 0 ] || { echo "error: give a command, see --help." >&2; exit 2; }

left=$tries
while true; do
  started=$SECONDS
  # In the background, so that signals to this shell can be handed on at once. Commands in the
  # background ignore SIGINT until they handle it themselves; Ctrl-C becomes a SIGTERM, too.
  "$@" &
  child=$!
  trap 'kill -TERM "$child"' TERM INT
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do  # a signal ended the wait, not the command
    wait "$child"
    code=$?
  done
  trap - TERM INT
  case $code in
    0 | 1 | 2 | 130 | 141 | 143) exit "$code" ;;
  esac
  ((SECONDS - started < 600)) || left=$tries
  left=$((left - 1))
  if ((left <= 0)); then
    echo "error: ended with exit code $code, $tries times in a row; giving up." >&2
    exit "$code"
  fi
  case $code in
    75 | 134) what="another process of the run was lost" ;;  # 134: JAX missed its heartbeat
    *) what="it crashed" ;;
  esac
  echo "ended with exit code $code ($what); starting again in $wait s ($left more tries)" >&2
  sleep "$wait"
done
