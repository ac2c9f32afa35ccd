"""Qwen2.5-VL on JAX's devices: the forward pass of our text encoder."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.models.mllm.model import MLLM, abstract_mllm
from step1x_jax.models.mllm.positions import pad_pictures, pad_prompts, padded_size
from step1x_jax.parallel.host_memory import host_shardings, on_device
from step1x_jax.parallel.mesh import count_batch_shards
from step1x_jax.parallel.rules import batch_sharding, shardings
from step1x_jax.weights.language_model import load_mllm, read_mllm_config

# One program is compiled for each pair of sizes that occurs. The release's limits on pixels give
# 1024 to 1296 patches, and with the prompt 480 to 860 tokens.
PATCHES = (128, 512, 1296)
TOKENS = 128  # prompts are padded to a multiple of it


class JaxLanguageModel:
    """The frozen model, on one device or split over a mesh: a LanguageModelBackend (encoder.py)."""

    def __init__(self, model: MLLM, mesh: Mesh | None = None, on_host: bool = False):
        """Take a loaded model, on that mesh if there is one; see `load_jax`."""
        self._mesh = mesh
        self._on_host = on_host
        self._config = model.config
        self.image_token_id = model.config.image_token_id
        graph, self._params = nnx.split(model)
        self._run = jax.jit(lambda params, *batch: nnx.merge(graph, params)(*batch))

    def __call__(
        self,
        pictures: Sequence[PicturePatches],
        prompts: Sequence[Sequence[int]],
        unseen_id: int | None = None,
    ) -> jax.Array:
        """Output of the final norm (B, L, C), L at least the longest prompt; undefined past ends.

        The batch is filled up to what the mesh divides by repeating its last example; pictures
        and prompts are padded to one of a few sizes.
        """
        b = len(pictures)
        parts = 1 if self._mesh is None else count_batch_shards(self._mesh)
        filled = -(-b // parts) * parts
        pictures = [*pictures, *[pictures[-1]] * (filled - b)]
        prompts = [*prompts, *[prompts[-1]] * (filled - b)]

        grids = np.stack([picture.grid for picture in pictures])
        patches = padded_size(max(len(picture.patches) for picture in pictures), PATCHES)
        tokens = padded_size(max(map(len, prompts)), (TOKENS,))
        batch = (
            pad_pictures([p.patches for p in pictures], grids, self._config.vision, patches),
            pad_prompts(prompts, grids, self._config, tokens, unseen_id),
        )
        with self._params_there() as params:
            if self._mesh is None:
                states = self._run(params, *batch)
            else:
                batch = jax.device_put(batch, batch_sharding(self._mesh))
                with jax.set_mesh(self._mesh):
                    states = self._run(params, *batch)
            return jax.block_until_ready(states)[:b] if self._on_host else states[:b]

    @contextlib.contextmanager
    def _params_there(self) -> Iterator[nnx.State]:
        if not self._on_host:
            yield self._params
            return
        with on_device(self._params, self._mesh) as params:
            yield params


def load_jax(
    folder: epath.PathLike, dtype: str, mesh: Mesh | None = None, on_host: bool = False
) -> JaxLanguageModel:
    """The model from its Hugging Face folder; parameters keep the dtype of the file.

    Args:
      folder: with config.json and the weights.
      dtype: of the arithmetic, "float32" or "bfloat16".
      mesh: parameters are split over its axes fsdp and tensor, the batch over data and fsdp; None
        takes the default device.
      on_host: parameters stay in the host's memory, and are on the devices during a call.

    Raises:
      UserError: the folder is another model's, or incomplete.
    """
    config = read_mllm_config(folder)
    places = None
    if on_host:
        places = host_shardings(abstract_mllm(config)[1])
    elif mesh is not None:
        places = shardings(abstract_mllm(config)[1], mesh)
    return JaxLanguageModel(load_mllm(folder, dtype=dtype, shardings=places), mesh, on_host)
