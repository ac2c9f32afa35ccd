"""Compiled programs on disk, so that the next process need not compile them again."""

import os
from typing import Any

import jax

FOLDER = "~/.cache/step1x_jax/compiled"
LEAST_SECONDS = 0.1  # what compiles quicker is not kept


def keep_compiled() -> None:
    """Keeps what is compiled from now on, and takes what is there.

    Where the user has chosen a folder (JAX_COMPILATION_CACHE_DIR, or jax's option of that name),
    that one stays, with whatever else was chosen for it.
    """
    config: Any = jax.config  # its types do not know its options
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", os.path.expanduser(FOLDER))
        config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
