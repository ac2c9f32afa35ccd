"""FLUX.1's text-to-image weights as initialization for training Step1X-Edit.

The DiT is the same. FLUX.1 has no connector, which is drawn as in a new model; its guidance
embedding is not used. txt_in and vector_in have the shapes of ours, but were trained on T5's and
CLIP's embeddings.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from etils import epath
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.weights.layouts.official import Table, flatten_params, model_table
from step1x_jax.weights.official_tensors import OfficialTensors
from step1x_jax.weights.readers import Override, Tensors

TEXT = ("txt_in.", "vector_in.")


@dataclasses.dataclass(frozen=True)
class FluxStart:
    """How FLUX.1 is completed to a model.

    Attributes:
      version: of the model, see ModelConfig.
      seed: of the tensors that are drawn; they equal those of a new model of this seed up to
        rounding.
      fresh_text: draw txt_in and vector_in, too.
    """

    version: str = "v1.1"
    seed: int = 0
    fresh_text: bool = False


@dataclasses.dataclass(frozen=True)
class FluxModel:
    """A model to start from.

    Attributes:
      tensors: under the official names.
      config: sizes.
      drawn: names of the official tensors that are drawn at random.
      unused: names of FLUX.1's tensors that the model does not have.
    """

    tensors: Tensors
    config: ModelConfig
    drawn: Sequence[str]
    unused: Sequence[str]


def start_from_flux(
    path: epath.Path, flux: Tensors, sizes: ModelConfig, how: FluxStart
) -> FluxModel:
    """Complete FLUX.1's weights to a whole model.

    Args:
      path: of the weights, for messages.
      flux: FLUX.1's official tensors.
      sizes: of its DiT.
      how: version and seed.

    Raises:
      UserError: the sizes contradict each other, or a tensor of the DiT is missing.
    """
    config = dataclasses.replace(sizes, version=how.version)
    config.validate()
    table, given = model_table(config), flux.shapes
    drawn = [n for n in table if n not in given or (how.fresh_text and n.startswith(TEXT))]
    unused = [name for name in given if name not in table]
    for name in drawn:
        if not name.startswith(("connector.", *TEXT)):
            raise UserError(f"{path} lacks {name}; download it again.")
    random = _DrawnTensors(config, {name: table[name] for name in drawn}, how.seed)
    dtype = np.dtype(config.param_dtype if config.param_dtype == "float32" else jax.numpy.bfloat16)
    changes: dict = dict.fromkeys(unused)
    for name in drawn:
        changes[name] = table[name].shape, dtype, partial(random.read, name)
    return FluxModel(Override(flux, changes), config, drawn, unused)


class _DrawnTensors:
    """Some official tensors of a new model with random weights."""

    def __init__(self, config: ModelConfig, table: Table, seed: int):
        self._config, self._table, self._seed = config, table, seed
        self._paths = {part.path for entry in table.values() for part in entry.slices}
        self._leaves: dict[str, jax.Array] = {}

    def read(self, name: str) -> np.ndarray:
        """Read one of them; the first call draws all of them."""
        if not self._leaves:
            config, seed, paths = self._config, self._seed, self._paths

            @jax.jit
            def draw() -> dict[str, jax.Array]:  # the compiler removes what is not returned
                state = nnx.state(Step1XEdit(config, rngs=nnx.Rngs(seed)))
                leaves = flatten_params(state).items()
                return {path: leaf[...] for path, leaf in leaves if path in paths}

            self._leaves = draw()
        return OfficialTensors(self._table, self._leaves).read(name)
