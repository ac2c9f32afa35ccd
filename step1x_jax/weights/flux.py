"""FLUX.1's text-to-image weights as the start from which Step1X-Edit is trained.

Its DiT is ours. It has no connector: that is drawn as a new model's. Its guidance embedding has no
place. txt_in and vector_in have our shapes, but were made for the embeddings of T5 and CLIP.
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
from step1x_jax.weights.layouts.official import Table, flat, model_table
from step1x_jax.weights.published import Published
from step1x_jax.weights.readers import Changed, Tensors

TEXT = ("txt_in.", "vector_in.")


@dataclasses.dataclass(frozen=True)
class FluxStart:
    """How FLUX.1 is filled up to a model.

    Attributes:
      version: of the model, see ModelConfig.
      seed: of what is drawn, which is as in a new model of this seed, but for rounding.
      fresh_text: txt_in and vector_in are drawn, too.
    """

    version: str = "v1.1"
    seed: int = 0
    fresh_text: bool = False


@dataclasses.dataclass(frozen=True)
class Start:
    """The model to start from, and what of it is not FLUX.1's, or is not taken."""

    tensors: Tensors
    config: ModelConfig
    fresh: Sequence[str]  # official tensors that are drawn
    left_over: Sequence[str]  # FLUX.1's that have no place


def start_from_flux(path: epath.Path, flux: Tensors, sizes: ModelConfig, how: FluxStart) -> Start:
    """Fills FLUX.1's weights up to a whole model.

    Args:
      path: of the weights, for messages.
      flux: FLUX.1's official tensors.
      sizes: of its DiT.
      how: version and seed.

    Raises:
      UserError: the sizes do not fit together.
    """
    config = dataclasses.replace(sizes, version=how.version)
    config.validate()
    table, there = model_table(config), flux.shapes
    fresh = [n for n in table if n not in there or (how.fresh_text and n.startswith(TEXT))]
    left_over = [name for name in there if name not in table]
    for name in fresh:
        if not name.startswith(("connector.", *TEXT)):
            raise UserError(f"{path} lacks {name}; download it again.")
    drawn = _Drawn(config, {name: table[name] for name in fresh}, how.seed)
    dtype = np.dtype(config.param_dtype if config.param_dtype == "float32" else jax.numpy.bfloat16)
    changes: dict = dict.fromkeys(left_over)
    for name in fresh:
        changes[name] = table[name].shape, dtype, partial(drawn.read, name)
    return Start(Changed(flux, changes), config, fresh, left_over)


class _Drawn:
    """Some of the official tensors of a new model."""

    def __init__(self, config: ModelConfig, table: Table, seed: int):
        self._config, self._table, self._seed = config, table, seed
        self._paths = {part.path for entry in table.values() for part in entry.parts}
        self._leaves: dict[str, jax.Array] = {}

    def read(self, name: str) -> np.ndarray:
        """One of them; all are drawn at the first."""
        if not self._leaves:
            config, seed, paths = self._config, self._seed, self._paths

            @jax.jit
            def draw() -> dict[str, jax.Array]:  # of the rest, the compiler makes nothing
                state = nnx.state(Step1XEdit(config, rngs=nnx.Rngs(seed)))
                return {path: leaf[...] for path, leaf in flat(state).items() if path in paths}

            self._leaves = draw()
        return Published(self._table, self._leaves).read(name)
