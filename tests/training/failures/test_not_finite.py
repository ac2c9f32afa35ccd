"""What a run saves when its metrics are no longer finite."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from step1x_jax.errors import UserError
from step1x_jax.training.failures.not_finite import check_finite


def batch():
    return {
        "target": np.arange(8).reshape(4, 2).astype(jnp.bfloat16),
        "text_lengths": np.arange(4, dtype=np.int32),
        "ids": np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
    }


def test_finite_numbers_leave_nothing(tmp_path):
    check_finite({"loss": 1.0, "grad_norm": 0.0}, 3, batch(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_batch_and_the_numbers_are_kept(tmp_path, value):
    named = (
        r"grad_norm is (nan|inf) at step 7; .*\(a.jpg, b.jpg, c.jpg, ...\): they are in .*step-7"
    )
    with pytest.raises(UserError, match=named):
        check_finite({"loss": 0.5, "grad_norm": value}, 7, batch(), tmp_path)
    (path,) = (tmp_path / "not_finite").iterdir()
    with safetensors.safe_open(path, "numpy") as file:
        about = file.metadata()
        assert file.get_tensor("target").tobytes() == batch()["target"].tobytes()
        assert sorted(file.keys()) == ["target", "text_lengths"]
    assert about["ids"].split("\n") == list(batch()["ids"])
    assert (about["step"], about["loss"], about["grad_norm"]) == ("7", "0.5", repr(value))


def test_data_without_names(tmp_path):
    unnamed = {"target": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"the step's edits: they are in"):
        check_finite({"loss": np.nan}, 1, unnamed, tmp_path)
