#!/usr/bin/env bash
# The tests. Quick and without torch by default; --all adds the slow ones, those that need extras,
# the second lane (Python 3.12 with its newest jax, kernels only), the linter and the type checker.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workers=(-n auto --maxprocesses=4 --dist=loadfile)  # a file's tests share what they compile
if [ "${1:-}" != --all ]; then
  need_environment no-torch
  exec "$PYTHON" -m pytest "${workers[@]}" -m "not slow and not torch and not quickstart and not parquet and not gcs" "$@"
fi

shift
need_environment torch diffusers quickstart parquet gcs tpu dev
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
.venv/bin/shellcheck --external-sources --source-path=SCRIPTDIR launch/*.sh launch/*.sbatch launch/gke/*.sh

lane=$(PYENV_VERSION=${LANE_312:-3.12.1} python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || true)
if [ -n "$lane" ]; then
  pip=(.venv-3.12/bin/pip install --quiet --disable-pip-version-check)
  if [ ! -x .venv-3.12/bin/python ]; then
    "$lane" -m venv .venv-3.12
    "${pip[@]}" jax flax numpy pytest etils[epath] absl-py
    # JAX's CUDA plugin and NVIDIA's assembler alone (260 MB): they compile for GPUs without one
    version=$(.venv-3.12/bin/python -c 'import jax; print(jax.__version__)')
    "${pip[@]}" --no-deps "jax-cuda13-plugin==$version" "jax-cuda13-pjrt==$version" nvidia-cuda-nvcc \
      nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime ||
      echo "skipped: assembling the GPU kernels, because JAX's CUDA plugin cannot be installed"
  fi
  "${pip[@]}" pytest-xdist
  .venv-3.12/bin/python -m pytest "${workers[@]}" -rs tests/kernels
else
  echo "skipped: the second lane, because there is no python3.12 here"
fi
exec "$PYTHON" -m pytest "${workers[@]}" -rs "$@"
