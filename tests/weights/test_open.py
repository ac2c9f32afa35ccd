"""`open_weights` for runs of adapters, averages, bases, LoRAs and 8 bits."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig, tiny
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.files.fp8 import QuantizeToFp8
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.layouts.official import model_table, slices_by_parameter
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import Adapters
from step1x_jax.weights.open import check_is_model, open_lora, open_weights
from step1x_jax.weights.readers import Cast, InMemory
from step1x_jax.weights.run.base import describe_parameters
from step1x_jax.weights.run.writer import write_weights_folder
from step1x_jax.weights.save import write_file
from tests.golden import VECTORS
from tests.training.tiny import tiny_config

GOLDEN = VECTORS / "dit_v1_0"
LORA = VECTORS / "lora" / "lora_kohya.safetensors"
BF16 = np.dtype(jnp.bfloat16)
NAME, PLAIN, LAST = "single_blocks.0.linear1.weight", "img_in.weight", "final_layer.linear.bias"
SCALE = 6 / 3


def random_numbers(seed):
    """Returns random official tensors of the tiny model, float32."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=entry.shape).astype(np.float32)
        for name, entry in model_table(tiny()).items()
    }


@dataclasses.dataclass
class Run:
    """A run of adapters on bfloat16 weights, whose base is a file in float32."""

    path: object
    base: object
    adapters: Adapters
    average: Adapters

    def wanted(self, adapters, name, dtype=BF16):
        """Computes the expected weight: a float32 sum of the run's numbers, rounded once."""
        weight = load_file(self.base)[name].astype(BF16).astype(np.float32)
        if (module := name.removesuffix(".weight")) in adapters.shapes:
            (piece,) = adapters.deltas(module)
            weight = weight + np.float32(SCALE) * (piece.up @ piece.down)
        return weight.astype(dtype)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    config = tiny_config()
    write_file(folder / "base.safetensors", InMemory(random_numbers(0)), config.model)
    config = override(
        config,
        {
            "model.param_dtype": "bfloat16",
            "lora": LoraConfig(rank=3, alpha=6.0),
            "training.start_from": str(folder / "base.safetensors"),
        },
    )
    abstract = abstract_state(config, make_mesh(config.mesh))
    rng = np.random.default_rng(1)
    trained, average = (
        jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), abstract.params)
        for _ in range(2)
    )
    seen = Cast(open_weights(folder / "base.safetensors").tensors, BF16)
    about = describe_parameters(seen, config.model, slices_by_parameter(model_table(config.model)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    state = dataclasses.replace(zeros, params=trained, ema=average)
    state = jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), state, abstract)
    with contextlib.closing(Checkpoints(folder / "run", keep=1)) as checkpoints:
        checkpoints.save(state, config, about)
    return Run(
        folder / "run",
        folder / "base.safetensors",
        *(Adapters(adapters, config.model, config.lora) for adapters in (trained, average)),
    )


def check_same(tensors, name, wanted):
    found = tensors.read(name)
    assert tensors.dtypes[name] == found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [False, True])
def test_a_run_of_adapters_is_its_base_as_the_run_had_it_and_they(run, ema):
    adapters = run.average if ema else run.adapters
    tensors = open_weights(run.path, ema=ema).tensors
    for name in (NAME, PLAIN, LAST):
        check_same(tensors, name, run.wanted(adapters, name))
    rows = np.array([0, 5])
    np.testing.assert_array_equal(tensors.read(NAME, rows), run.wanted(adapters, NAME)[rows])
    exact = open_weights(run.path, ema=ema, exact=True).tensors
    check_same(exact, NAME, run.wanted(adapters, NAME, np.dtype(np.float32)))
    check_same(exact, PLAIN, run.wanted(adapters, PLAIN))  # a sum of nothing


def test_a_base_that_moved_may_be_given_and_is_compared_before_anything_is_read(run, tmp_path):
    """A single changed number in one of the last tensors is detected."""
    numbers = load_file(run.base)
    config = run.base.with_name("config.json").read_bytes()
    for name, change in (("same", 0), ("other", 1)):
        numbers[LAST] = numbers[LAST] + np.float32(change)
        (tmp_path / name).mkdir()
        save_file(numbers, tmp_path / name / "weights.safetensors")
        (tmp_path / name / "config.json").write_bytes(config)
    check_same(open_weights(run.path, base=tmp_path / "same").tensors, NAME,
               run.wanted(run.adapters, NAME))  # fmt: skip
    weights = open_weights(run.path, base=tmp_path / "other")
    for _ in range(2):
        with pytest.raises(UserError, match=r"on other weights: .*final_layer.* differs"):
            weights.tensors.read(PLAIN)
    with pytest.raises(UserError, match="were trained on other weights"):
        load_model(weights)


def test_only_runs_that_kept_one_have_an_average(tmp_path):
    with pytest.raises(
        UserError, match=r"is not a run of launch\.train, and only runs have a moving"
    ):
        open_weights(GOLDEN, ema=True)
    weights = open_weights(GOLDEN)
    write_weights_folder(tmp_path / "run", weights.tensors, weights.config, {})
    with pytest.raises(UserError, match=r"has no moving average, which needs optimizer"):
        open_weights(tmp_path / "run", ema=True)


def test_only_adapters_have_a_base_and_only_models_loras(run):
    with pytest.raises(UserError, match=r"is not a run of adapters, .*; leave --base out"):
        open_weights(GOLDEN, base=GOLDEN)
    with pytest.raises(
        UserError, match=r"is not a model \(autoencoder, official\), so LoRAs cannot be merged"
    ):
        open_weights(VECTORS / "vae", loras=[(LORA, 1.0)])
    with pytest.raises(UserError, match=r"is an autoencoder, .*not a model; give it as --vae"):
        check_is_model(open_weights(VECTORS / "vae"))


def test_a_run_of_adapters_is_a_lora_of_its_own_model_alone(run):
    lora, module = open_lora(run.path, tiny()), NAME.removesuffix(".weight")
    assert lora.shapes == run.adapters.shapes
    (found,), (wanted,) = lora.deltas(module), run.adapters.deltas(module)
    np.testing.assert_array_equal(found.up, wanted.up)
    with pytest.raises(
        UserError, match=r"adapts \S+ with shape \[.*\], so it is for another model"
    ):
        open_weights(GOLDEN, loras=[(run.path, 1.0)])


def test_eight_bits_are_bfloat16_or_exact_and_sums_are_rounded_once(tmp_path):
    official = open_weights(GOLDEN)
    write_file(
        tmp_path / "x.safetensors", QuantizeToFp8(official.tensors, scaled=True), official.config
    )
    file = SafetensorsFile(tmp_path / "x.safetensors")
    stored = {name: file.read(name) for name in file.shapes}
    products = stored[NAME].astype(np.float32) * stored[NAME.replace("weight", "scale_weight")]
    weights = open_weights(tmp_path)
    assert weights.config.param_dtype == "bfloat16"
    assert set(weights.tensors.dtypes.values()) == {BF16}
    check_same(weights.tensors, NAME, products.astype(BF16))
    check_same(open_weights(tmp_path, exact=True).tensors, NAME, products)
    lora = open_lora(LORA, official.config)
    (piece,) = lora.deltas(NAME.removesuffix(".weight"))
    total = products + np.float32(piece.scale) * (piece.up @ piece.down)
    assert (total.astype(BF16) != (products.astype(BF16) + total - products).astype(BF16)).any()
    merged = open_weights(tmp_path, loras=[(LORA, 1.0)])
    check_same(merged.tensors, NAME, total.astype(BF16))
    check_same(merged.tensors, PLAIN, stored[PLAIN])
    check_same(open_weights(tmp_path, loras=[(LORA, 1.0)], exact=True).tensors, NAME, total)


def test_pipelines_of_other_models_are_named(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxFillPipeline"}')
    with pytest.raises(UserError, match="is of 'FluxFillPipeline', but only Step1X"):
        locate_components(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "Step1XEditPipeline"}')
    assert locate_components(tmp_path).model == tmp_path / "transformer"
