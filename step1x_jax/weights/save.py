"""Writing opened weights in another form: an official file, a folder of parts, diffusers' folders.

A file or folder gets its name when it is complete. What exists is not overwritten.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from step1x_jax.files import making_folder
from step1x_jax.weights.diffusers_folder import write_folder, write_pipeline_json
from step1x_jax.weights.kinds import Weights
from step1x_jax.weights.load import write_file

Parts = Mapping[str, Weights]  # "transformer", "vae", or both
SUFFIX = ".safetensors"


def write_official(
    path: epath.Path, parts: Parts, defaults: Mapping[str, Any] | None = None
) -> None:
    """Writes one part as a .safetensors file, or all into transformer/ and autoencoder/.

    A config.json is written beside a file unless its sizes are a release's.

    Args:
      path: ends in .safetensors for a file; "transformer" is written where there are two parts.
      parts: what to write.
      defaults: what an absent entry of a model's config.json means.

    Raises:
      UserError: a tensor is not finite, the disk is full, or a config.json of another model is
        beside.
    """
    if path.suffix == SUFFIX:
        return _write_file(path, parts.get("transformer") or parts["vae"], defaults)
    with making_folder(path) as temporary:
        for part, folder in (("transformer", "transformer"), ("vae", "autoencoder")):
            if part in parts:
                (temporary / folder).mkdir()
                _write_file(temporary / folder / "weights.safetensors", parts[part])
    return None


def _write_file(
    path: epath.Path, weights: Weights, defaults: Mapping[str, Any] | None = None
) -> None:
    tensors = weights.tensors
    specs = {name: (shape, tensors.dtypes[name]) for name, shape in tensors.shapes.items()}
    config, fields = weights.config, weights.fields
    write_file(path, specs, tensors.read, config, fields, tensors.metadata, defaults)


def write_diffusers(path: epath.Path, parts: Parts) -> None:
    """Writes the folder of one model, or with two parts that of a pipeline.

    Args:
      path: the folder to make.
      parts: what to write.

    Raises:
      UserError: the disk is full, or the place is not writable.
    """
    with making_folder(path) as temporary:
        for part, weights in parts.items():
            folder = temporary / part if len(parts) > 1 else temporary
            if len(parts) > 1:
                folder.mkdir()
            write_folder(folder, weights.tensors, weights.config, weights.fields)
        if len(parts) > 1:
            write_pipeline_json(temporary)
