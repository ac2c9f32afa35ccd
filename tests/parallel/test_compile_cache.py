"""Compiled programs are cached for later processes, unless the user has chosen a folder."""

import os
import subprocess
import sys

import pytest

# Compiles something before the cache is enabled, as a notebook may. Then compiles a program, which
# is cached regardless of its compile time, and prints the number of cache hits.
CODE = """
import jax, numpy as np
from step1x_jax.parallel import compile_cache
jax.block_until_ready(jax.jit(lambda x: x + 1)(np.ones(3)))
compile_cache.MIN_COMPILE_SECONDS = 0.0
compile_cache.enable_compile_cache()
found = []
jax.monitoring.register_event_listener(
    lambda name, **more: found.append(name.endswith("cache_hits")))
jax.block_until_ready(jax.jit(lambda x: x * 2 - 1)(np.ones(3)))
print(sum(found), jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def compile_one(tmp_path, user_without_compile_cache):
    def run(**environment):
        env = os.environ | {"HOME": str(tmp_path)} | environment
        command = [sys.executable, "-c", CODE]
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        found, folder = result.stdout.split()
        return int(found), folder

    return run


@pytest.mark.slow
def test_a_second_process_finds_the_compiled_program(compile_one, tmp_path):
    folder = str(tmp_path / ".cache/step1x_jax/compiled")
    assert compile_one() == (0, folder)
    assert compile_one() == (1, folder)


def test_the_users_folder_and_limits_are_kept(compile_one, tmp_path):
    folder = str(tmp_path / "mine")
    limit = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "60"}
    assert compile_one(JAX_COMPILATION_CACHE_DIR=folder, **limit) == (0, folder)
    assert not list(tmp_path.glob("**/*-cache"))
