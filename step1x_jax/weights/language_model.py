"""Loads Qwen2.5-VL from its Hugging Face folder, strictly and without PyTorch.

lm_head is left out because only text generation needs it. Every other tensor must be present with
the expected shape, and no other tensor may be present.
"""

import dataclasses

from etils import epath
from flax import nnx

from step1x_jax.json_files import read_json
from step1x_jax.models.mllm.config import MLLMConfig, mllm_from_json
from step1x_jax.models.mllm.model import MLLM, abstract_mllm
from step1x_jax.weights.checks import check_tensors, common_dtype
from step1x_jax.weights.files.opening import open_raw
from step1x_jax.weights.filling import fill_params, set_shardings, with_stored_dtypes
from step1x_jax.weights.layouts.qwen import NEW_PREFIXES, mllm_table
from step1x_jax.weights.readers import Override, Tensors

FILE = "model.safetensors"
CONFIG = "config.json"
UNUSED = "lm_head."


def open_mllm(folder: epath.PathLike) -> Tensors:
    """Open the weight file, or the index and its shards, of a folder; lm_head is left out.

    Raises:
      UserError: there are none, or see `open_raw`.
    """
    file = open_raw(folder, (FILE,))
    return Override(file, {name: None for name in file.shapes if name.startswith(UNUSED)})


def read_mllm_config(folder: epath.PathLike) -> MLLMConfig:
    """Read the sizes in a folder's config.json; dtypes are the defaults.

    Raises:
      UserError: it is missing, or that of another model.
    """
    path = epath.Path(folder) / CONFIG
    return mllm_from_json(read_json(path), str(path))


def load_mllm(
    folder: epath.PathLike, *, dtype: str | None = None, shardings: nnx.State | None = None
) -> MLLM:
    """Load the frozen model, each parameter in the dtype in which it is stored.

    Args:
      folder: with config.json and the weights.
      dtype: compute dtype; None: bfloat16 if all weights are bfloat16, else float32.
      shardings: a tree like the model's state; None: everything on the default device.

    Raises:
      UserError: the folder is another model's, a file is missing or damaged, or the weights do not
        fit the sizes.
    """
    config, tensors = read_mllm_config(folder), open_mllm(folder)
    param_dtype = common_dtype(tensors.dtypes.values())
    config = dataclasses.replace(config, param_dtype=param_dtype, dtype=dtype or param_dtype)
    newer = any(name.startswith(NEW_PREFIXES) for name in tensors.shapes)
    table = mllm_table(config, newer=newer)
    advice = f"Download it again, {CONFIG} included."
    check_tensors(epath.Path(folder), tensors.shapes, table, advice, tensors.dtypes)
    graph, params = abstract_mllm(config)
    params = set_shardings(with_stored_dtypes(params, table, tensors.dtypes), shardings)
    return nnx.merge(graph, fill_params(params, table, tensors))
