"""What lies in a device's memory while one picture is edited, and what each choice changes."""

from collections.abc import Mapping

from jax.sharding import Mesh

from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.parallel.devices import GIB, bytes_per_device
from step1x_jax.planning.compilation import abstract_editing
from step1x_jax.training.parts import placed

# The programs of an edit, and the model that each of them runs.
AT_WORK = {"read": "language_model", "sample": "transformer", "decode": "autoencoder"}
STAYS = "autoencoder"  # on the first device, whole, whatever else waits


def weights_gib(config: ModelConfig, mesh: Mesh, quantize: str | None) -> dict[str, float]:
    """GiB of the three models on the first device of a mesh, as the release stores them.

    Transformer and language model (whose last layer is not loaded) in bfloat16, autoencoder in
    float32.

    Args:
      config: of the transformer and connector.
      mesh: over which these and the language model are split.
      quantize: see `load_model`.
    """
    split = {
        "transformer": abstract_editing(config, quantize)[1],
        "language_model": abstract_mllm(MLLMConfig(param_dtype="bfloat16"))[1],
    }
    sizes = {name: bytes_per_device(placed(params, mesh)) for name, params in split.items()}
    alone = mesh.devices.flat[:1].reshape((1,) * mesh.devices.ndim)
    whole = Mesh(alone, mesh.axis_names, axis_types=mesh.axis_types)
    sizes[STAYS] = bytes_per_device(placed(abstract_autoencoder(AutoencoderConfig())[1], whole))
    return {name: size / GIB for name, size in sizes.items()}


def peak_gib(weights: Mapping[str, float], working: Mapping[str, float], *, offload: bool) -> float:
    """GiB at the fullest moment of an edit.

    Args:
      weights: of `weights_gib`.
      working: of programs in AT_WORK: what each needs beside the weights.
      offload: of transformer and language model only the one at work is there.
    """

    def there(program: str) -> float:
        if not offload:
            return sum(weights.values())
        return sum(weights[name] for name in {STAYS, AT_WORK[program]})

    return max(there(program) + gib for program, gib in working.items())
