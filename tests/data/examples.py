"""Records with random content, for tests."""

import jax.numpy as jnp
import numpy as np

from step1x_jax.data.records import EditRecord


def make_record(number: int, latent_size=(4, 4), tokens: int = 5, width: int = 8) -> EditRecord:
    """Make a record whose arrays are seeded by its number; its id is that number."""
    rng = np.random.default_rng(number)

    def array(*shape):
        return rng.standard_normal(shape).astype(jnp.bfloat16)

    return EditRecord(
        id=str(number),
        instruction=f"mach’s Nr. {number} 红",
        language="de",
        task="colour",
        source_size=(640, 480),
        target_size=(64, 48),
        source_hash="ab" * 32,
        text=array(tokens, width),
        negative_text=array(3, width),
        source=array(*latent_size, 16),
        target=array(*latent_size, 16),
    )


def assert_equal(a: EditRecord, b: EditRecord) -> None:
    """Assert that all fields are equal, arrays bit for bit."""
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype
            assert value.shape == other.shape
            assert value.tobytes() == other.tobytes()
        else:
            assert value == other
