"""The base is quantized while it is loaded, so that no device holds all original weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.models.config import LoraConfig
from step1x_jax.models.eight_bits import quantize
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.trainable_split import abstract_base, abstract_frozen, make_freezer
from step1x_jax.weights.filling import map_params
from step1x_jax.weights.layouts.official import flatten_params
from step1x_jax.weights.load import load_parameters
from step1x_jax.weights.lora.adapters import quantized_paths
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.fingerprints import describe_arrays, make_fingerprinter, name_arrays
from tests.training.tiny import tiny_config
from tests.weights.loading_worker import wide_config
from tests.weights.models import load_as, save_model


def run_config(model, stored):
    return override(tiny_config(), {"model": model, "lora": LoraConfig(rank=2, quantize=stored)})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random bfloat16 weights of the tiny model and of one with 68 MB, and their configs."""

    def make(config):
        rng = np.random.default_rng(0)
        config = override(config, {"param_dtype": "bfloat16"})
        graph, abstract = abstract_model(config)
        state = jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape, np.float32) - 0.5, x.dtype),
                             abstract)  # fmt: skip
        path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
        save_model(path, nnx.merge(graph, state))
        return str(path), config

    return {"tiny": make(tiny_config().model), "wide": make(wide_config())}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"fsdp": 1}, {"fsdp": 4, "tensor": 2}])
@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_it_is_what_the_loaded_weights_give(files, sizes, stored):
    """Bitwise equal on any mesh; the fingerprints are those of the original base."""
    path, model = files["tiny"]
    config = run_config(model, stored)
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: np.prod(list(sizes.values()))])
    about, keep = make_fingerprinter(make_freezer(config, mesh))
    frozen = load_parameters(open_weights(path, sizes=model), abstract_base(config, mesh), keep)

    wanted = abstract_frozen(config, mesh)
    assert jax.tree.structure(frozen) == jax.tree.structure(wanted)
    for x, want in zip(*map(jax.tree.leaves, (frozen, wanted)), strict=True):
        assert (x.shape, x.dtype, x.sharding) == (want.shape, want.dtype, want.sharding)

    whole = nnx.state(load_as(path, model))
    assert about == describe_arrays(name_arrays(whole))
    model = nnx.merge(abstract_model(model)[0], whole)
    quantize(model, quantized_paths(model.config), stored)
    found, after = flatten_params(frozen), flatten_params(nnx.state(model))
    assert found.keys() == after.keys()
    for name, x in after.items():
        assert found[name][...].dtype == x[...].dtype
        np.testing.assert_array_equal(found[name][...], x[...], err_msg=name)


def test_devices_never_hold_the_weights(files):
    """Only the frozen part so far and one parameter (host memory: test_filling.py)."""
    path, model = files["wide"]
    config = run_config(model, "int8")
    mesh = make_mesh(MeshConfig(fsdp=8))
    before = {
        id(x): x for x in jax.live_arrays()
    }  # references, so that no new array gets their ids
    in_use = lambda: sum(x.nbytes for x in jax.live_arrays() if id(x) not in before)  # noqa: E731
    freeze, most = make_freezer(config, mesh), 0

    def keep(place, parameter):
        nonlocal most
        most = max(most, in_use())
        result = freeze(place, parameter)
        most = max(most, in_use())
        return result

    frozen = load_parameters(open_weights(path, sizes=model), abstract_base(config, mesh), keep)
    base = [x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_model(model)[1])]
    in_8_bits = sum(x.nbytes for x in jax.tree.leaves(frozen))
    assert in_8_bits <= most <= in_8_bits + max(base)
    assert most < 0.65 * sum(base)  # 8 bits are 0.52 of it, and one parameter 0.12
    assert in_use() == in_8_bits

    # From a run's checkpoint, loaded as a whole, it takes over the buffers.
    del frozen
    params = load_parameters(open_weights(path, sizes=model), abstract_base(config, mesh))
    frozen = map_params(params, freeze)
    assert in_use() == sum(x.nbytes for x in jax.tree.leaves(frozen)) == in_8_bits
