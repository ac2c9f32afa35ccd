"""The base of a run of adapters, compared by several processes."""

import contextlib

import jax
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.config import LoraConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.load import load_model
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.base import describe_parameters
from step1x_jax.weights.run.fingerprints import describe_arrays, name_arrays
from tests.golden import VECTORS
from tests.processes import results
from tests.training.tiny import tiny_config
from tests.weights.models import save_model

BASE = VECTORS / "dit_v1_0"
WORKER = "tests.weights.run.base_worker"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Random adapters on the golden weights."""
    config = override(
        tiny_config(),
        {
            "model": load_model(BASE).config,
            "lora": LoraConfig(rank=2, alpha=4.0),
            "training.start_from": str(BASE),
        },
    )
    abstract = abstract_state(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding),
        abstract.params,
    )
    base = describe_arrays(name_arrays(nnx.state(load_model(BASE))))
    path = tmp_path_factory.mktemp("run")
    with contextlib.closing(Checkpoints(path, keep=1)) as checkpoints:
        checkpoints.save(init_state(config, abstract, adapters), config, base)
    return path


def test_a_description_by_tensors_is_that_of_the_arrays_on_devices():
    weights = open_weights(BASE)
    wanted = describe_arrays(name_arrays(nnx.state(load_model(weights))))
    assert describe_parameters(weights.tensors, weights.config, wanted) == wanted


@pytest.mark.slow
def test_two_processes_share_the_comparison_and_agree(run, tmp_path):
    assert results(WORKER, run, BASE) == ["same", "same"]
    model = load_model(BASE)
    bias = model.transformer.img_in.bias  # compared by one of the two processes
    bias.set_value(bias[...].at[3].add(1e-3))
    save_model(tmp_path / "weights.safetensors", model)
    for said in results(WORKER, run, tmp_path):
        assert "were trained on other weights: transformer.img_in.bias differs" in said
