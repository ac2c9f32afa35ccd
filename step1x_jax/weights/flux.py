"""FLUX.1's text-to-image weights as the start from which Step1X-Edit is trained.

Its DiT is ours. It has no connector: that is drawn as a new model's. Its guidance embedding has no
place. txt_in and vector_in have our shapes, but were made for the embeddings of T5 and CLIP.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.weights.kinds import Weights
from step1x_jax.weights.layouts.official import Table, flat, model_table
from step1x_jax.weights.load import reader_of
from step1x_jax.weights.readers import Changed

TEXT = ("txt_in.", "vector_in.")


@dataclasses.dataclass(frozen=True)
class Start:
    """The weights to start from, and what of them is not FLUX.1's, or is not taken."""

    weights: Weights
    fresh: Sequence[str]  # official tensors that are drawn
    left_over: Sequence[str]  # FLUX.1's that have no place


def start_from_flux(flux: Weights, *, version: str, seed: int, fresh_text: bool) -> Start:
    """Fills FLUX.1's weights up to a whole model.

    Args:
      flux: opened weights of FLUX.1.
      version: of the model to start, see ModelConfig.
      seed: of what is drawn, which is as in a new model of this seed, but for rounding.
      fresh_text: draw txt_in and vector_in, too.

    Raises:
      UserError: the sizes do not fit together.
    """
    assert isinstance(flux.config, ModelConfig)
    config = dataclasses.replace(flux.config, version=version)
    config.validate()
    table, there = model_table(config), flux.tensors.shapes
    fresh = [n for n in table if n not in there or (fresh_text and n.startswith(TEXT))]
    left_over = [name for name in there if name not in table]
    for name in fresh:
        if not name.startswith(("connector.", *TEXT)):
            raise UserError(f"{flux.path} lacks {name}; download it again.")
    drawn = _Drawn(config, {name: table[name] for name in fresh}, seed)
    dtype = np.dtype(config.param_dtype if config.param_dtype == "float32" else jax.numpy.bfloat16)
    changes: dict = dict.fromkeys(left_over)
    for name in fresh:
        changes[name] = table[name].shape, dtype, lambda name=name: drawn.read(name)
    tensors = Changed(flux.tensors, changes)
    return Start(dataclasses.replace(flux, tensors=tensors, config=config), fresh, left_over)


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
        return reader_of(self._table, self._leaves)(name)
