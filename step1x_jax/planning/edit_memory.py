"""Device memory during the edit of one picture, with all models resident or offloaded."""

from collections.abc import Mapping

from jax.sharding import Mesh

from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.parallel.devices import GIB, bytes_per_device
from step1x_jax.planning.compilation import abstract_inference_model
from step1x_jax.training.trainable_split import with_shardings

# The programs of an edit, and the model that each of them runs.
MODEL_OF_PROGRAM = {"read": "language_model", "sample": "transformer", "decode": "autoencoder"}
ALWAYS_RESIDENT = "autoencoder"  # stays on the first device, also with offloading


def weights_gib(config: ModelConfig, mesh: Mesh, quantize: str | None) -> dict[str, float]:
    """Compute the GiB of the three models on the first device of a mesh.

    Transformer and language model (without its output head) are in bfloat16, the autoencoder is
    in float32, as in the release.

    Args:
      config: sizes of transformer and connector.
      mesh: the mesh over which these and the language model are sharded.
      quantize: see `load_model`.

    Returns:
      GiB by model: "transformer", "language_model", "autoencoder".
    """
    split = {
        "transformer": abstract_inference_model(config, quantize)[1],
        "language_model": abstract_mllm(MLLMConfig(param_dtype="bfloat16"))[1],
    }
    sizes = {name: bytes_per_device(with_shardings(params, mesh)) for name, params in split.items()}
    first_device = mesh.devices.flat[:1].reshape((1,) * mesh.devices.ndim)
    single = Mesh(first_device, mesh.axis_names, axis_types=mesh.axis_types)
    sizes[ALWAYS_RESIDENT] = bytes_per_device(
        with_shardings(abstract_autoencoder(AutoencoderConfig())[1], single)
    )
    return {name: size / GIB for name, size in sizes.items()}


def peak_gib(weights: Mapping[str, float], working: Mapping[str, float], *, offload: bool) -> float:
    """Compute the peak GiB of an edit.

    Args:
      weights: the result of `weights_gib`.
      working: GiB that each program needs beside the weights, by its name in MODEL_OF_PROGRAM.
      offload: keep only the running one of transformer and language model in device memory.
    """

    def resident(program: str) -> float:
        if not offload:
            return sum(weights.values())
        return sum(weights[name] for name in {ALWAYS_RESIDENT, MODEL_OF_PROGRAM[program]})

    return max(resident(program) + gib for program, gib in working.items())
