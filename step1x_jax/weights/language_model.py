"""Qwen2.5-VL from its Hugging Face folder, strictly and without PyTorch.

lm_head is left out on purpose: only writing text needs it. Every other tensor must be there in its
shape, and none beside them.
"""

from etils import epath
from flax import nnx

from step1x_jax.json_files import read_json
from step1x_jax.models.mllm.config import MLLMConfig, mllm_from_json
from step1x_jax.models.mllm.model import MLLM, abstract_mllm
from step1x_jax.weights.checks import check_tensors, common_dtype
from step1x_jax.weights.files.opening import open_stored
from step1x_jax.weights.filling import as_stored, at, filled
from step1x_jax.weights.layouts.qwen import NEW_PREFIXES, mllm_table
from step1x_jax.weights.readers import Changed, Tensors

FILE = "model.safetensors"
CONFIG = "config.json"
UNUSED = "lm_head."


def open_mllm(folder: epath.PathLike) -> Tensors:
    """The tensors of a folder's weight file, or files with an index, without lm_head.

    Raises:
      UserError: there are none, or see `open_stored`.
    """
    file = open_stored(folder, (FILE,))
    return Changed(file, {name: None for name in file.shapes if name.startswith(UNUSED)})


def read_mllm_config(folder: epath.PathLike) -> MLLMConfig:
    """The sizes in a folder's config.json, with the default precisions.

    Raises:
      UserError: it is missing, or that of another model.
    """
    path = epath.Path(folder) / CONFIG
    return mllm_from_json(read_json(path), str(path))


def load_mllm(
    folder: epath.PathLike, *, dtype: str | None = None, shardings: nnx.State | None = None
) -> MLLM:
    """The frozen model, each parameter in the dtype in which it is stored.

    Args:
      folder: with config.json and the weights.
      dtype: of the arithmetic; None computes in bfloat16 if all the weights are bfloat16, else in
        float32.
      shardings: a tree like the model's state; None puts everything on the default device.

    Raises:
      UserError: the folder is another model's, a file is missing or damaged, or the weights do not
        fit the sizes.
    """
    config, tensors = read_mllm_config(folder), open_mllm(folder)
    config.param_dtype = common_dtype(tensors.dtypes.values())
    config.dtype = dtype or config.param_dtype
    newer = any(name.startswith(NEW_PREFIXES) for name in tensors.shapes)
    table = mllm_table(config, newer=newer)
    advice = f"Download it again, {CONFIG} included."
    check_tensors(epath.Path(folder), tensors.shapes, table, advice, tensors.dtypes)
    graph, params = abstract_mllm(config)
    params = at(as_stored(params, table, tensors.dtypes), shardings)
    return nnx.merge(graph, filled(params, table, tensors))
