from tests.training.conftest import toy_model  # noqa: F401
