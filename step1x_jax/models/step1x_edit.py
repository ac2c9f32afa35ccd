"""Step1X-Edit: connector and DiT, from latents and embeddings to the velocity."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from step1x_jax.models.config import ModelConfig
from step1x_jax.models.connector import Connector
from step1x_jax.models.embeddings import PATCH, pack, position_ids, rope_table, unpack
from step1x_jax.models.layers import abstract
from step1x_jax.models.transformer import Transformer


def token_positions(version: str, sizes: Sequence[tuple[int, ...]], text_length: int) -> np.ndarray:
    """Return the position ids of all tokens: noise, reference (if there is one), text.

    In v1.0 the reference has the same positions as the noise; in v1.1 they are shifted by one on
    every axis. Text tokens are at position 0.

    Args:
      version: the model's version.
      sizes: rows and columns of the noise latents, then of the reference latents.
      text_length: number of text tokens.

    Returns:
      (L, 3) int64.
    """
    shift = 0 if version == "v1.0" else 1
    image = [position_ids(h, w, offset=i * shift) for i, (h, w) in enumerate(sizes)]
    return np.concatenate([*image, np.zeros((text_length, 3), np.int64)])


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Return graph definition and abstract parameters of the model; see `abstract`."""
    return abstract(lambda rngs: Step1XEdit(config, rngs=rngs))


class Step1XEdit(nnx.Module):
    """The trainable model: `connector` and `transformer`. Calling it computes the velocity."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        config.validate()
        self.config = dataclasses.replace(config)  # a copy: later changes must not affect the model
        self.connector = Connector(self.config, rngs=rngs)
        self.transformer = Transformer(self.config, rngs=rngs)

    def image_velocity(
        self,
        latents: jax.Array,
        reference: jax.Array | None,
        text: jax.Array,
        text_lengths: jax.Array,
        timesteps: jax.Array,
    ) -> jax.Array:
        """Compute velocities at all image tokens, noise and reference; arguments as in __call__.

        Returns:
          (B, I, in_channels) in the compute dtype, noise tokens first.
        """
        config = self.config
        if text.shape[1] > config.text_length:
            raise ValueError(f"{text.shape[1]} text tokens, model.text_length={config.text_length}")
        pictures = [latents] if reference is None else [latents, reference]
        image = jnp.concatenate([pack(x) for x in pictures], axis=1)
        tokens, vector = self.connector(text, text_lengths, timesteps)
        ids = token_positions(config.version, [x.shape[1:3] for x in pictures], text.shape[1])
        rope = jnp.asarray(rope_table(ids, config.axes_dim, config.theta))
        total_keys = None
        if config.attend_to_padding:
            # The padded text tokens of an example stay equal through all blocks: they have the same
            # embedding and position. The first one stands for all.
            text_lengths = jnp.minimum(text_lengths + 1, config.text_length)
            total_keys = image.shape[1] + config.text_length
        kv_lengths = image.shape[1] + text_lengths
        return self.transformer(image, tokens, vector, timesteps, rope, kv_lengths, total_keys)

    def __call__(
        self,
        latents: jax.Array,
        reference: jax.Array | None,
        text: jax.Array,
        text_lengths: jax.Array,
        timesteps: jax.Array,
    ) -> jax.Array:
        """Compute the velocity eps - x0 of the noisy latents.

        The result does not depend on T. Where config.attend_to_padding, it is that of text padded
        to config.text_length.

        Args:
          latents: (B, h, w, 16) noisy latents, h and w even.
          reference: (B, h', w', 16) latents of the source picture; None for text-to-image.
          text: (B, T, 3584) embeddings, zero-padded past `text_lengths`. T is config.text_length or
            greater than the longest of `text_lengths`, see `text_bucket`.
          text_lengths: (B,) int32, number of valid embeddings, at least 1.
          timesteps: (B,) float32 in [0, 1]; 1 is pure noise.

        Returns:
          (B, h, w, 16) float32.

        Raises:
          ValueError: T is greater than config.text_length.
        """
        h, w = latents.shape[1:3]
        velocity = self.image_velocity(latents, reference, text, text_lengths, timesteps)
        return unpack(velocity[:, : h * w // PATCH**2].astype(jnp.float32), h, w)
