"""Checks of output paths: what is secret must not be in what is given away."""

import os

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import is_remote


def is_inside(path: epath.PathLike, folder: epath.PathLike) -> bool:
    """Whether a path is a folder's or of something in it, links followed; neither need exist."""
    if is_remote(path) or is_remote(folder):
        return (os.fspath(path) + "/").startswith(os.fspath(folder).rstrip("/") + "/")
    inside, outside = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([inside, outside]) == outside


def check_new(path: epath.PathLike, flag: str) -> None:
    """Raise UserError if there is something at the path that a flag names."""
    if epath.Path(path).exists():
        raise UserError(f"--{flag}={path} is there already; give another place.")
