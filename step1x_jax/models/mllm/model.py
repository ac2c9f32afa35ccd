"""Qwen2.5-VL as an encoder: a picture and a prompt to the last hidden state, frozen.

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
    """Structure and abstract parameters of the model, see `abstract`."""
    return abstract(lambda rngs: MLLM(config, rngs=rngs))


class MLLM(nnx.Module):
    """Call it for the last hidden state; its parts are `visual` and `language_model`."""

    def __init__(self, config: MLLMConfig, *, rngs: nnx.Rngs):
        config.validate()
        # copies: they must not change any more
        self.config = config = dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision),
            language=dataclasses.replace(config.language),
        )
        self.visual = VisionTower(config, rngs=rngs)
        self.language_model = LanguageModel(config, rngs=rngs)

    def embed(self, pictures: Pictures, prompts: Prompts) -> jax.Array:
        """Embedded tokens, those of the picture in their places.

        Args:
          pictures: of `pad_pictures`, one for each example.
          prompts: of `pad_prompts`.

        Returns:
          (B, T, D) in the compute dtype.
        """
        picture = self.visual(pictures)  # (B, M, D), window order
        there = jnp.take_along_axis(picture, jnp.maximum(prompts.places, 0)[..., None], axis=1)
        is_picture = (prompts.places != PADDING)[..., None]
        return jnp.where(is_picture, there, self.language_model.embed(prompts.ids))

    def __call__(self, pictures: Pictures, prompts: Prompts) -> jax.Array:
        """The last hidden state, behind the final norm; arguments as in `embed`.

        Returns:
          (B, T, D) in the compute dtype; rubbish behind the end of an example.
        """
        x = self.embed(pictures, prompts)
        return self.language_model(x, prompts.positions, prompts.attended)
