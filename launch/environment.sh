# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv once, and installs what the caller names.
#
#   need_environment TORCH EXTRA...   TORCH is "torch" or "no-torch"; EXTRA are extras of pyproject.toml

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

need_environment() {
  local torch=$1 wanted stamp
  shift
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "error: Python 3.11 or newer is needed; set PYTHON to one." >&2; exit 1; }
    echo "making .venv" >&2
    "${PYTHON:-python3}" -m venv .venv
  fi
  wanted="$torch $*"
  stamp=".venv/installed-${wanted// /-}"
  if [ ! "$stamp" -nt requirements.txt ] || [ ! "$stamp" -nt pyproject.toml ]; then
    echo "installing packages (once)" >&2
    # The CPU build of torch where its index can be reached: a plain one pulls gigabytes of CUDA.
    if [ "$torch" = torch ] && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
      .venv/bin/pip install -qq --disable-pip-version-check --retries 1 --timeout 10 \
        --extra-index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0'
    fi
    local extras=""
    [ $# -eq 0 ] || extras="[$(IFS=,; echo "$*")]"
    .venv/bin/pip install --quiet --disable-pip-version-check --editable ".$extras"
    touch "$stamp"
  fi
  PYTHON="$PWD/.venv/bin/python"
}
