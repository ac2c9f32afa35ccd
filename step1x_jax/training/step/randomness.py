"""Where all randomness of training comes from: one seed, and a name for every use."""

import zlib

import jax


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def stream(seed: int, name: str) -> jax.Array:
    """The random key of one named use. Uses that happen every step fold the step in, too."""
    return jax.random.fold_in(jax.random.key(seed), _number(name))


def named(key: jax.Array, name: str) -> jax.Array:
    """A key of its own for each name, an array's say."""
    return jax.random.fold_in(key, _number(name))
