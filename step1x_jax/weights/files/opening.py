"""Finds the weight file of a folder, and opens .safetensors files and indices."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import find, is_file
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.files.shards import STEM, ShardedFile, indices, is_index
from step1x_jax.weights.readers import RowIndices, Shape

MODEL_NAMES = (  # the releases, newest first, then our own name
    "step1x-edit-v1p1-official.safetensors",
    "step1x-edit-i1258.safetensors",
    "weights.safetensors",
)
AUTOENCODER_NAME = "vae.safetensors"  # of the release
LORA_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
# Prefixes that other programs put before all names of a model, the longest first.
PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "first_stage_model.", "transformer.",
    "_orig_mod.", "module.", "model.", "vae.", "dit.",
)  # fmt: skip


def find_weights(path: epath.PathLike, names: Sequence[str]) -> epath.Path:
    """Return the path itself, or a folder's first file of `names`, its index, or its only file.

    Args:
      path: a file or folder.
      names: of files, in order of preference.

    Raises:
      UserError: the folder has none, or several without a preferred name.
    """
    path = epath.Path(path)
    if not path.is_dir():
        return path  # opening a missing file raises the error
    for name in names:
        if is_file(path / name):
            return path / name
    found = indices(path) or find(path, "*.safetensors")
    if len(found) == 1:
        return found[0]
    some = ", ".join(file.name for file in found[:5])
    raise UserError(
        f"{path} has {len(found)} weight files, {some}; give the weight file itself."
        if found
        else f"{path} holds none of {', '.join(names)}; give the weight file itself."
    )


def refuse_pickle(path: epath.Path) -> None:
    """Raise UserError if a file's suffix is that of a pickle; the file is not opened."""
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, which may run any code when it is opened, so it is not opened; if"
            " you trust it, convert it with torch.load(..., weights_only=True) and"
            " safetensors.torch.save_file, and give the .safetensors file."
        )


def open_raw(path: epath.PathLike, names: Sequence[str] = ()) -> SafetensorsFile | ShardedFile:
    """Open a .safetensors file, an index, or a folder with one of them; names are as stored.

    Args:
      path: the file or folder.
      names: of files that are preferred to a folder's index; (): the index is preferred.

    Raises:
      UserError: there is none, it is damaged, or it is a pickle.
    """
    path = epath.Path(path)
    if path.is_dir():
        found = indices(path)
        if not names and len(found) == 1:
            path = found[0]
        else:
            if not found and not find(path, "*.safetensors"):
                for file in find(path, "*"):
                    refuse_pickle(file)
            known = (f"{STEM}.safetensors", *MODEL_NAMES, AUTOENCODER_NAME, *LORA_NAMES)
            path = find_weights(path, names or known)
    else:
        refuse_pickle(path)
    return ShardedFile(path) if is_index(path) else SafetensorsFile(path)


class StripPrefix:
    """A reader of a file's tensors without the prefix that all their names have.

    Args:
      file: the file.
      prefix: of all names.
    """

    def __init__(self, file: SafetensorsFile | ShardedFile, prefix: str):
        self.path, self.metadata = file.path, file.metadata
        self._file, self._prefix = file, prefix
        self.shapes: Mapping[str, Shape] = self._renamed(file.shapes)
        self.dtypes: Mapping[str, np.dtype] = self._renamed(file.dtypes)

    def _renamed(self, values: Mapping) -> dict:
        return {name.removeprefix(self._prefix): value for name, value in values.items()}

    def read(self, name: str, rows: RowIndices = None) -> np.ndarray:
        """Read one tensor, or some of its rows, in the file's dtype."""
        return self._file.read(self._prefix + name, rows)


WeightFile = SafetensorsFile | ShardedFile | StripPrefix


def open_file(path: epath.PathLike) -> WeightFile:
    """Open weights as `open_raw` does, but strips the prefix that all names have in common.

    Args:
      path: the file or folder.

    Raises:
      UserError: see `open_raw`.
    """
    file = open_raw(path)
    some = next(iter(file.shapes), "")
    for prefix in PREFIXES:
        if some.startswith(prefix) and all(name.startswith(prefix) for name in file.shapes):
            return StripPrefix(file, prefix)
    return file
