"""Loading onto devices: each process reads and holds only its shards, exactly."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from step1x_jax.models.config import LoraConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import shardings
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.filling import set_shardings
from step1x_jax.weights.language_model import load_mllm
from step1x_jax.weights.layouts.official import flatten_params, model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import load_adapters
from tests.golden import VECTORS
from tests.processes import results
from tests.weights.loading_worker import counted, peak_beside_the_model, placed_at, wide_config
from tests.weights.lora.test_adapters import abstract_adapters
from tests.weights.models import load_as, parameters_as

MB = 1 << 20
MODEL = VECTORS / "dit_v1_0"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"


def assert_same(found, wanted, places):
    """Asserts equal numbers and shardings."""
    found, wanted, places = (flatten_params(x) for x in (found, wanted, places))
    assert found.keys() == wanted.keys()
    for path, x in found.items():
        want = np.asarray(wanted[path][...])
        assert x[...].sharding == places[path].get_value(), path
        assert x.dtype == want.dtype
        for shard in x[...].addressable_shards:
            np.testing.assert_array_equal(shard.data, want[shard.index], err_msg=path)


@pytest.mark.parametrize(
    "sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}]
)
def test_a_split_model_is_the_whole_one(sizes):
    mesh = make_mesh(MeshConfig(**sizes))
    whole = load_model(MODEL)
    places = shardings(abstract_model(whole.config)[1], mesh)
    assert_same(parameters_as(MODEL, whole.config, places=places), nnx.state(whole), places)


def test_a_lora_is_merged_into_shards_of_bfloat16():
    """Sums are rounded once, as without sharding."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    config = load_model(MODEL).config
    config = override(config, {"param_dtype": "bfloat16"})
    places = shardings(abstract_model(config)[1], mesh)
    whole, split = (
        nnx.state(load_as(MODEL, config, loras=[(LORA, 0.7)], places=given))
        for given in (None, places)
    )
    assert_same(split, whole, places)
    plain = nnx.state(load_as(MODEL, config))
    q = lambda x: x["transformer"]["single_blocks"]["attn"]["q"]["kernel"][...]  # noqa: E731
    assert np.abs(np.float32(q(plain)) - np.float32(q(split))).max() > 1e-2


def test_adapters_and_the_language_model_are_split_alike():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    config, lora = load_model(MODEL).config, LoraConfig(rank=4, alpha=2.0)
    abstract = abstract_adapters(config, lora)
    places = shardings(abstract, mesh)
    whole = load_adapters(LORA, abstract, config, lora)
    assert_same(load_adapters(LORA, set_shardings(abstract, places), config, lora), whole, places)

    folder = VECTORS / "mllm" / "model"
    whole = load_mllm(folder)
    places = shardings(abstract_mllm(whole.config)[1], mesh)
    assert_same(nnx.state(load_mllm(folder, shardings=places)), nnx.state(whole), places)


@pytest.mark.parametrize("axis", range(3))
def test_any_axis_may_be_split(axis):
    """Layers and RoPE's pairs are split, too, if they are divisible by two."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,),
                         devices=jax.devices()[:2])  # fmt: skip
    whole = load_model(MODEL)
    split = set()

    def place(path, leaf):
        names = [None] * leaf.ndim
        if axis < leaf.ndim and leaf.shape[axis] % 2 == 0:
            names[axis] = "x"
            split.add(path)
        return jax.sharding.NamedSharding(mesh, jax.P(*names))

    state = nnx.state(whole)
    places = nnx.from_flat_state(
        [(path, leaf.replace(place(path, leaf[...]))) for path, leaf in nnx.to_flat_state(state)]
    )
    assert split
    assert_same(parameters_as(MODEL, whole.config, places=places), state, places)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A file of 68 MB, much larger than Python's other memory."""
    path = tmp_path_factory.mktemp("wide") / "weights.safetensors"
    config = wide_config()
    rng = np.random.default_rng(0)
    save_file(
        {
            name: rng.integers(0x3C00, 0x3E00, entry.shape, np.uint16).view(jax.numpy.bfloat16)
            for name, entry in model_table(config).items()
        },
        path,
    )
    return path


def test_what_is_read(wide):
    """Rows are read once, by the processes that hold them; columns once per process."""
    config = wide_config()
    places = placed_at(config, make_mesh(MeshConfig(fsdp=8)))
    with counted() as reads:
        parameters_as(wide, config, places=places)
    shapes = SafetensorsFile(wide).shapes
    assert {name for name, *_ in reads} == shapes.keys()
    of = lambda wanted: sorted((a, b) for name, a, b in reads if name == wanted)  # noqa: E731
    d = config.hidden_size
    mlp_in, mlp_out = "double_blocks.0.img_mlp.0.weight", "double_blocks.0.img_mlp.2.weight"
    assert of(mlp_in) == [(0, 2 * 4 * d * d)]
    assert of(mlp_out) == [(i * d * d, (i + 1) * d * d) for i in range(8)]
    assert len(of("single_blocks.1.modulation.lin.weight")) == 8


def largest_tensor(path):
    return max(2 * math.prod(shape) for shape in SafetensorsFile(path).shapes.values())


@pytest.mark.parametrize("devices", [1, 8])
def test_the_host_holds_one_parameter_and_one_reading(wide, devices):
    config = wide_config()
    places = placed_at(config, make_mesh(MeshConfig(fsdp=devices), jax.devices()[:devices]))
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_model(config)[1])]
    bound = max(sizes) + largest_tensor(wide) + MB
    assert bound < sum(sizes) / 4
    assert peak_beside_the_model(wide, config, places) < bound


@pytest.mark.slow
def test_two_processes_read_and_hold_their_shares(wide):
    found = [json.loads(text) for text in results("tests.weights.loading_worker", wide)]
    shapes = SafetensorsFile(wide).shapes
    config = wide_config()
    d, whole = config.hidden_size, wide.stat().st_size
    for i, result in enumerate(found):
        reads = [tuple(read) for read in result["reads"]]
        of = {name: {(a, b) for n, a, b in reads if n == name} for name in shapes}
        # its half of the rows of all layers ...
        for block in range(config.depth):
            half = 2 * 4 * d * d // 2
            mlp_out = {(i * half + j * half // 2, i * half + (j + 1) * half // 2) for j in range(2)}
            assert of[f"double_blocks.{block}.txt_mlp.2.weight"] == mlp_out
        # ... and what is split by columns as a whole
        assert of["double_blocks.1.img_mlp.0.weight"] == {(0, 2 * 4 * d * d)}

        # by the table of parallel/rules.py: of 18 d^2 of a stream mod (6), proj (1) and mlp_out (4)
        # are split by rows, of 15 d^2 of a single block modulation (3) and linear2 (5)
        streams, blocks = 2 * config.depth, config.depth_single_blocks
        matrices = streams * (11 / 2 + 7) + blocks * (8 / 2 + 7)
        assert abs(sum(b - a for _, a, b in set(reads)) - 2 * d * d * matrices) < 0.05 * whole

        # half of the largest parameter, and a reading
        largest = config.depth_single_blocks * 2 * 4 * d * d
        assert result["peak"] < largest / 2 + largest_tensor(wide) + MB < whole / 6
