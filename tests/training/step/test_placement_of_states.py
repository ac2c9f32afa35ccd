"""After the compiled step every array of the state is sharded like its parameter.

test_train_step.py checks this for AdamW with all parameters.
"""

import jax
import numpy as np
import pytest

from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.step import adafactor
from step1x_jax.training.step.train_step import abstract_state, make_train_step
from step1x_jax.training.trainable_split import abstract_frozen
from step1x_jax.weights.run.fingerprints import name_arrays
from tests.training.tiny import make_batch, tiny_config

pytestmark = pytest.mark.slow


def compiled(config):
    """Compile the step; return the abstract state with the compiler's output shardings."""
    mesh = make_mesh(config.mesh)
    state = abstract_state(config, mesh)
    step = make_train_step(config, mesh, state)
    with jax.set_mesh(mesh):
        program = step.lower(state, make_batch(0), abstract_frozen(config, mesh)).compile()
    places, _ = program.output_shardings

    def placed(x, place):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    return jax.tree.map(placed, state, places)


def split_config():
    config = override(tiny_config(), {"mesh": MeshConfig(data=2, fsdp=2, tensor=2)})
    assert config.optimizer.ema_decay
    return config


def assert_really_split(params):
    """At least 90 % of the values are sharded (all but biases, norms and the outer layers)."""
    sizes = [(x.size, x.sharding.is_fully_replicated) for x in jax.tree.leaves(params)]
    assert sum(n for n, whole in sizes if not whole) > 0.9 * sum(n for n, _ in sizes)


def assert_as(tree, params):
    ours, theirs = name_arrays(tree), name_arrays(params)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert x.sharding.is_equivalent_to(theirs[name].sharding, x.ndim), name


def test_adapters():
    config = override(
        split_config(),
        {
            "lora.rank": 8,
            "training.start_from": "weights",
            "lora.targets": ("double_blocks.*", "single_blocks.*", "connector.*"),
        },
    )
    state = compiled(config)
    assert_really_split(state.params)
    for tree in (state.opt_state[1][0].mu, state.opt_state[1][0].nu, state.ema):
        assert_as(tree, state.params)


def test_adafactor(monkeypatch):
    """Means of rows and columns are sharded like the matrix without the averaged axis."""
    monkeypatch.setattr(adafactor, "SMALLEST_FACTORED", 16)
    config = override(split_config(), {"optimizer.name": "adafactor"})
    state = compiled(config)
    assert_really_split(state.params)
    assert_as(state.ema, state.params)
    moments, factored = state.opt_state[1].moments, 0
    params = name_arrays(state.params)
    assert moments.keys() == params.keys()
    for name, kept in moments.items():
        x = params[name]
        spec = (*x.sharding.spec, *(None,) * (x.ndim - len(x.sharding.spec)))
        if kept.keys() == {"whole"}:
            whole = kept["whole"].get_value()
            assert whole.sharding.is_equivalent_to(x.sharding, x.ndim), name
            continue
        factored += 1
        for mean in (kept["rows"].get_value(), kept["columns"].get_value()):
            without = [  # equal sizes leave a choice
                jax.P(*np.delete(np.array(spec, object), i))
                for i in range(x.ndim)
                if tuple(np.delete(x.shape, i)) == mean.shape
            ]
            places = [jax.NamedSharding(x.sharding.mesh, one) for one in without]
            assert any(mean.sharding.is_equivalent_to(one, mean.ndim) for one in places), name
    assert factored > 20
