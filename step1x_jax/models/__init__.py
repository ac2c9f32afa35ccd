"""Connector, diffusion transformer and autoencoder in flax.nnx."""
