#!/usr/bin/env bash
# Runs the tests.
#
#   bash launch/test.sh [PYTEST_ARGUMENT...]         # the quick ones, without PyTorch: four minutes on two cores
#   bash launch/test.sh --all [PYTEST_ARGUMENT...]   # all that can run here, the linter and the type checker
#
# --all adds the slow tests and those that need extras. The quick ones of what stands on JAX, Flax
# and Orbax themselves, and the slow ones of kernels and models, also run under Python 3.12 with its
# newest jax, if there is a python3.12. What is skipped is printed with its reason. Makes .venv (and .venv-3.12) and installs the packages once.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source launch/usage.sh
usage_if_asked launch/test.sh "$@"
workers=(-n auto --maxprocesses=4 --dist=loadfile)  # a file's tests share what they compile
extras="torch or quickstart or parquet or gcs or demo or evaluation or deidentify or curation"
quick="not (slow or $extras)"
if [ "${1:-}" != --all ]; then
  need_environment no-torch test
  exec "$PYTHON" -m pytest "${workers[@]}" -m "$quick" "$@"
fi

# The second lane's Python: the packages of requirements.txt, and JAX's CUDA plugin and NVIDIA's
# assembler alone (260 MB), which compile for GPUs that are not attached.
need_second_environment() {
  make_venv .venv-3.12 "$1"
  ! is_installed .venv-3.12/installed || return 0
  echo "installing packages for Python 3.12 (once)" >&2
  local version pip=(.venv-3.12/bin/pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --requirement requirements.txt
  version=$(.venv-3.12/bin/python -c 'import jax; print(jax.__version__)')
  "${pip[@]}" --no-deps "jax-cuda13-plugin==$version" "jax-cuda13-pjrt==$version" nvidia-cuda-nvcc \
    nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime ||
    { echo "skipped: assembling the GPU kernels, because JAX's CUDA plugin cannot be installed"; return 0; }
  touch .venv-3.12/installed
}

shift
need_environment torch test diffusers quickstart parquet gcs demo evaluation deidentify curation tpu dev
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
.venv/bin/shellcheck --external-sources --source-path=SCRIPTDIR launch/*.sh launch/*.sbatch launch/gke/*.sh

# pyenv, where there is one, takes its newest 3.12.
if lane=$(PYENV_VERSION=3.12 python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null); then
  need_second_environment "$lane"
  .venv-3.12/bin/python -m pytest "${workers[@]}" -rs -m "$quick" "$@" tests/kernels tests/models \
    tests/parallel tests/sampling tests/training/step tests/training/checkpoint \
    tests/weights/layouts tests/weights/run tests/conditioning tests/test_golden.py \
    tests/test_package.py
  .venv-3.12/bin/python -m pytest "${workers[@]}" -rs -m "slow and not ($extras)" tests/kernels \
    tests/models tests/planning/test_gpu_memory.py
else
  echo "skipped: the quick tests under Python 3.12, because there is no python3.12 here"
fi
exec "$PYTHON" -m pytest "${workers[@]}" -rs "$@"
