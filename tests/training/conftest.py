import pytest

from step1x_jax.models import step1x_edit
from tests.training.tiny import Toy


@pytest.fixture(scope="module")
def toy_model():
    """Training uses the toy instead of the real model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step1x_edit, "Step1XEdit", Toy)
        yield
