import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from step1x_jax.models.config import PRESETS
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import batch_sharding, partition_spec, shardings


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2))


def test_logical_names_become_mesh_axes(mesh):
    assert partition_spec(("layers", "embed", "mlp"), (3, 8, 5), mesh) == P(None, "fsdp", None)
    assert partition_spec((None, None), (3, 8), mesh) == P(None, None)


def test_sharding_of_weights_in_use():
    """Gathered over fsdp, sharded over tensor; modulations are sharded as stored."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    mlp, modulation = (("embed", "mlp"), (8, 8)), (("vector", "modulation"), (8, 24))
    assert partition_spec(*mlp, mesh) == P("fsdp", "tensor")
    assert partition_spec(*mlp, mesh, "used") == P(None, "tensor")
    assert partition_spec(*modulation, mesh) == P(None, "fsdp")
    assert partition_spec(*modulation, mesh, "used") == P(None, "fsdp")
    other = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2])
    assert partition_spec(*mlp, other) == P("fsdp", None)  # a mesh without a tensor axis


def test_indivisible_axes_are_replicated(mesh):
    assert partition_spec(("embed", "mlp"), (6, 5), mesh) == P(None, None)


def test_unknown_names_are_refused(mesh):
    with pytest.raises(ValueError, match="'colour' is not in"):
        partition_spec(("colour",), (8,), mesh)


def test_a_wrong_number_of_names_is_refused(mesh):
    with pytest.raises(ValueError, match="do not match the shape"):
        partition_spec(("embed",), (8, 8), mesh)


def test_colliding_axes_are_refused(mesh):
    with pytest.raises(ValueError, match="same mesh axis"):
        partition_spec(("embed", "embed"), (8, 8), mesh)


def test_variables_anywhere_in_a_tree_are_sharded_by_name(mesh):
    kernel = nnx.Param(jnp.ones((8, 3)), out_sharding=("embed", "mlp"))
    tree = {"moments": [nnx.State({"kernel": kernel})], "count": jnp.zeros(())}
    placed = shardings(jax.eval_shape(lambda: tree), mesh)
    assert placed["moments"][0]["kernel"].get_value().spec == P("fsdp", None)
    assert placed["count"].spec == P()


def test_batches_are_sharded_over_both_axes(mesh):
    assert batch_sharding(mesh).spec == P(("data", "fsdp"))


@pytest.mark.parametrize("preset", [*PRESETS, "qwen"])
def test_large_arrays_of_the_models_are_sharded(preset, mesh):
    """Also checks that the table has all names that the models use, without collisions."""
    is_qwen = preset == "qwen"
    _, params = abstract_mllm(MLLMConfig()) if is_qwen else abstract_model(PRESETS[preset]())
    sharded = shardings(params, mesh)
    replicated = total = 0
    for x, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(sharded), strict=True):
        total += x.size
        replicated += 0 if "fsdp" in sharding.spec else x.size
    assert replicated < 0.03 * total  # biases and the small projection of the mean text
