"""Qwen2.5-VL as a frozen encoder: maps an image and a prompt to the last hidden state.

Legend: B examples, P patches, M merged tokens, T tokens, D width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from step1x_jax.models.layers import abstract
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.language import LanguageModel
from step1x_jax.models.mllm.positions import PADDING, Pictures, Prompts
from step1x_jax.models.mllm.vision import VisionTower


def abstract_mllm(config: MLLMConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Return graph definition and abstract parameters of the model; see `abstract`."""
    return abstract(lambda rngs: MLLM(config, rngs=rngs))


class MLLM(nnx.Module):
    """`visual` and `language_model`. Calling it computes the last hidden state."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        config.validate()
        # copies: later changes must not affect the model
        self.config = config = dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision),
            language=dataclasses.replace(config.language),
        )
        self.visual = VisionTower(config, rngs=rngs)
        self.language_model = LanguageModel(config, rngs=rngs)

    def embed(self, pictures: Pictures, prompts: Prompts) -> jax.Array:
        """Embed the prompts and inserts the image tokens.

        Args:
          pictures: result of `pad_pictures`, one image per example.
          prompts: result of `pad_prompts`.

        Returns:
          (B, T, D) in the compute dtype.
        """
        image = self.visual(pictures)  # (B, M, D), window order
        tokens = jnp.take_along_axis(image, jnp.maximum(prompts.image_index, 0)[..., None], axis=1)
        is_image = (prompts.image_index != PADDING)[..., None]
        return jnp.where(is_image, tokens, self.language_model.embed(prompts.ids))

    def __call__(self, pictures: Pictures, prompts: Prompts) -> jax.Array:
        """Compute the last hidden state, after the final norm; arguments as in `embed`.

        Returns:
          (B, T, D) in the compute dtype; undefined past each example's length.
        """
        x = self.embed(pictures, prompts)
        return self.language_model(x, prompts.positions, prompts.key_mask)
