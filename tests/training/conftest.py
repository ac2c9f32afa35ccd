import pytest

from step1x_jax.models import step1x_edit
from tests.training.tiny import Toy


@pytest.fixture(scope="module")
def toy_model():
    """Replace the real model by the toy in training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step1x_edit, "Step1XEdit", Toy)
        yield
