"""The frozen models that make records, on the devices of this machine."""

import jax
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.conditioning.encoder import EncoderConfig, load_encoder
from step1x_jax.data.batch_encoder import Models
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.weights.load import load_autoencoder


def load_models(
    config: EncoderConfig, autoencoder: str, mesh: Mesh | None, implementation: str = "jax"
) -> Models:
    """Load both.

    Args:
      config: of the encoder.
      autoencoder: its file or folder.
      mesh: of the devices; None: there is one.
      implementation: of the encoder, see `load_encoder`.
    """
    encoder = load_encoder(config, implementation, mesh)
    return Models(encoder, autoencoder_on(autoencoder, mesh))


def autoencoder_on(path: str, mesh: Mesh | None):
    """Pictures (B, H, W, 3) uint8 to latents; each device takes its part of the batch."""
    graph, params = nnx.split(load_autoencoder(path))

    @jax.jit
    def encode(params, pixels):
        return nnx.merge(graph, params).encode(pixels.astype("float32") / 127.5 - 1)

    if mesh is None:
        return lambda pixels: encode(params, pixels)
    params = jax.device_put(params, replicated(mesh))
    return lambda pixels: encode(params, jax.device_put(pixels, batch_sharding(mesh)))
