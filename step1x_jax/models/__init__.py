"""Connector, diffusion transformer, autoencoder and text encoder in flax.nnx."""
