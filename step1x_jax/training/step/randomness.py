"""Random keys of training, derived from one seed and a name for each use."""

import zlib

import jax


def _hash(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def rng_stream(seed: int, name: str) -> jax.Array:
    """Make the random key of one use. Uses in every step also fold in the step."""
    return jax.random.fold_in(jax.random.key(seed), _hash(name))


def fold_in_name(key: jax.Array, name: str) -> jax.Array:
    """Derive a key for a name, for example that of an array."""
    return jax.random.fold_in(key, _hash(name))
