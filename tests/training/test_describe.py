"""Full-size models on abstract values; the counts are those of the released files."""

import pytest

from step1x_jax.models.config import PRESETS
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch, count_parameters, trace_train_step
from step1x_jax.training.step.train_step import abstract_state

DIT, CONNECTOR = 11_891_178_560, 536_621_824


@pytest.mark.parametrize(("preset", "more"), [("step1x_edit_v1_0", 1), ("step1x_edit_v1_1", 0)])
def test_parameter_counts(preset, more):
    assert count_parameters(abstract_model(PRESETS[preset]())[1]) == {
        "connector": CONNECTOR + more,
        "transformer": DIT,
        "total": DIT + CONNECTOR + more,
    }


@pytest.mark.slow
def test_the_full_train_step_is_traced():
    config = override(TrainConfig(model=PRESETS["step1x_edit_v1_1"]()), {"model.remat": "full"})
    mesh = make_mesh(MeshConfig(data=2))
    state, batch = abstract_state(config, mesh), abstract_batch(config, 1024, mesh)
    lowered, _ = trace_train_step(config, mesh, state, batch)
    (state, batch, _), _ = lowered.in_avals
    assert batch["target"].shape == (8, 128, 128, 16)
    assert batch["text"].shape == (8, 640, 3584)
    kernel = state.params["transformer"]["single_blocks"]["mlp_in"]["kernel"].get_value()
    assert kernel.shape == (38, 3072, 12288)
    # noise, reference and text tokens of 1024 px meet in the attention
    assert "8832" in lowered.as_text()
