"""The cache of compiled programs on disk, which later processes reuse."""

import os
from typing import Any

import jax

FOLDER = "~/.cache/step1x_jax/compiled"
MIN_COMPILE_SECONDS = 0.1  # programs that compile faster are not cached


def enable_compile_cache() -> None:
    """Enable JAX's persistent compilation cache in FOLDER.

    If the user has chosen a folder (JAX_COMPILATION_CACHE_DIR, or the jax option of that name), it
    stays, with the user's other settings.
    """
    config: Any = jax.config  # its type does not declare its options
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", os.path.expanduser(FOLDER))
        config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
