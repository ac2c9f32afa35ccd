"""Where a folder has its weights, and the tensors of a file or an index as they are."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import find, is_file
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.files.shards import STEM, ShardedFile, indices, is_index
from step1x_jax.weights.readers import Rows, Shape

MODEL_NAMES = (  # the releases, newest first, then the name that we write
    "step1x-edit-v1p1-official.safetensors",
    "step1x-edit-i1258.safetensors",
    "weights.safetensors",
)
AUTOENCODER_NAME = "vae.safetensors"  # of the release
LORA_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
# What other programs put before every name of a model, the longest first.
PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "first_stage_model.", "transformer.",
    "_orig_mod.", "module.", "model.", "vae.", "dit.",
)  # fmt: skip


def find_weights(path: epath.PathLike, names: Sequence[str]) -> epath.Path:
    """The weight file itself, or in a folder the first of `names`, the index, or the only file.

    Raises:
      UserError: there is none.
    """
    path = epath.Path(path)
    if not path.is_dir():
        return path  # a missing file is named when it is opened
    for name in names:
        if is_file(path / name):
            return path / name
    found = indices(path) or find(path, "*.safetensors")
    if len(found) == 1:
        return found[0]
    there = ", ".join(file.name for file in found[:5])
    raise UserError(
        f"{path} has {len(found)} files of weights, {there}; give the weight file itself."
        if found
        else f"{path} holds none of {', '.join(names)}; give the weight file itself."
    )


def refuse_pickle(path: epath.Path) -> None:
    """Raises UserError if the file is a pickle, by its name: it is not opened to find out."""
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, which may run any code when it is opened, so it is not; where you"
            f" trust it, torch.load(..., weights_only=True) and safetensors.torch.save_file make a"
            " .safetensors file of it, which you can give here."
        )


def open_stored(path: epath.PathLike, names: Sequence[str] = ()) -> SafetensorsFile | ShardedFile:
    """The tensors of a .safetensors file, an index, or a folder with one of them, as they are.

    Args:
      path: the file or folder.
      names: of files in a folder that go before its index; () takes the index first.

    Raises:
      UserError: there is none, it is damaged, or a pickle.
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


class WithoutPrefix:
    """A file's tensors under their names without what comes before all of them."""

    def __init__(self, file: SafetensorsFile | ShardedFile, prefix: str):
        self.path, self.metadata = file.path, file.metadata
        self._file, self._prefix = file, prefix
        self.shapes: Mapping[str, Shape] = self._renamed(file.shapes)
        self.dtypes: Mapping[str, np.dtype] = self._renamed(file.dtypes)

    def _renamed(self, values: Mapping) -> dict:
        return {name.removeprefix(self._prefix): value for name, value in values.items()}

    def read(self, name: str, rows: Rows = None) -> np.ndarray:
        """One tensor, or some of its rows, in the file's dtype."""
        return self._file.read(self._prefix + name, rows)


WeightFile = SafetensorsFile | ShardedFile | WithoutPrefix


def open_file(path: epath.PathLike) -> WeightFile:
    """As `open_stored`, without what other programs put before all the names.

    Args:
      path: the file or folder.

    Raises:
      UserError: see `open_stored`.
    """
    file = open_stored(path)
    some = next(iter(file.shapes), "")
    for prefix in PREFIXES:
        if some.startswith(prefix) and all(name.startswith(prefix) for name in file.shapes):
            return WithoutPrefix(file, prefix)
    return file
