# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv once, and installs what the caller names.
#
#   need_environment TORCH EXTRA...   TORCH is "torch" or "no-torch"; EXTRA are extras of pyproject.toml

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# find_python: prints $PYTHON, or the first command that is a Python 3.11 or newer.
find_python() {
  local python candidates=(python3 python3.12 python3.11 python3.13 python3.14)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for python in "${candidates[@]}"; do
    ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
      { echo "$python"; return 0; }
  done
  echo "error: Python 3.11 or newer is needed, ${PYTHON:-python3} is not; set PYTHON to one that is." >&2
  return 1
}

# make_venv FOLDER PYTHON: a virtual environment with pip; one that was left half made is completed.
make_venv() {
  [ ! -x "$1/bin/pip" ] || return 0
  echo "making $1" >&2
  # Debian's Python has no ensurepip until python3-venv is installed; its pip will do instead.
  "$2" -m venv "$1" > /dev/null 2>&1 ||
    { "$2" -m venv --without-pip "$1" && "$2" -m pip --quiet --python "$1/bin/python" install pip; } ||
    { echo "error: $2 can make no virtual environment; install its venv module (on Debian: apt install python3-venv)." >&2; exit 1; }
}

# is_installed STAMP: whether that was installed after the lists of packages last changed.
is_installed() {
  [ "$1" -nt requirements.txt ] && [ "$1" -nt pyproject.toml ]
}

need_environment() {
  local torch=$1 wanted stamp python extras=""
  shift
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python) || exit 1
    make_venv .venv "$python"
  fi
  PYTHON="$PWD/.venv/bin/python"
  wanted="$torch $*"
  stamp=".venv/installed-${wanted// /-}"
  ! is_installed "$stamp" || return 0
  echo "installing packages (once)" >&2
  # The CPU build of torch where its index can be reached: a plain one pulls gigabytes of CUDA.
  if [ "$torch" = torch ] && ! "$PYTHON" -c 'import torch' 2>/dev/null; then
    .venv/bin/pip install -qq --disable-pip-version-check --retries 1 --timeout 10 \
      --extra-index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0'
  fi
  [ "$torch" = no-torch ] || set -- torch "$@"  # what else the extra has
  [ $# -eq 0 ] || extras="[$(IFS=,; echo "$*")]"
  .venv/bin/pip install --quiet --disable-pip-version-check --editable ".$extras"
  touch "$stamp"
}
