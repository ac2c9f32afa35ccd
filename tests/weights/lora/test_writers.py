"""Writing LoRAs, fusing and splitting layers."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.adapters import Adapters, to_adapters
from step1x_jax.weights.lora.file import LoraDelta, LoraFile, fuse_deltas, split_delta
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.lora.names import diffusers_layers, linear_shapes
from step1x_jax.weights.lora.writers import save_kohya, save_peft
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.readers import InMemory
from tests.golden import VECTORS, forward_rows, load_for_case, read_case

FOLDER = VECTORS / "lora"
FILE = FOLDER / "lora_kohya.safetensors"
BASE = VECTORS / "dit_v1_0"


@pytest.fixture(scope="module")
def config():
    return load_model(BASE).config


@pytest.fixture(scope="module")
def table(config):
    return model_table(config)


def random_lora(table, path, layers=None, seed=0, rank=2):
    """A PEFT file of diffusers' layers (all, or those named), each with different numbers."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, shape in linear_shapes(table).items():
        for rows in diffusers_layers(module, shape):
            if layers is None or rows.name in layers:
                a, b = (rank, shape[1]), (rows.size, rank)
                tensors[f"{rows.name}.lora_A.weight"] = rng.normal(size=a).astype(np.float32)
                tensors[f"{rows.name}.lora_B.weight"] = rng.normal(size=b).astype(np.float32)
    save_file(tensors, path)
    return tensors


def assert_same_bits(one, other):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for key, x in one.items():
        assert x.dtype == other[key].dtype
        np.testing.assert_array_equal(x, other[key])


def assert_same_merged(one, other, table):
    """Sums of at most 4 * rank products in another order: float32 rounding."""
    assert one.shapes.keys() == other.shapes.keys()
    for module, shape in one.shapes.items():
        name = f"{module}.weight"
        zeros = InMemory({name: np.zeros(shape, np.float32)})
        x, y = (Merged(zeros, [(lora, 1.0)]).read(name) for lora in (one, other))
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(x).max(), err_msg=module)
        assert x.any()


@pytest.mark.parametrize("name", ["lora.safetensors", "folder"])
def test_kohya_to_peft_and_back_is_the_same_file(tmp_path, table, name):
    """In between, every split layer has the fused layer's down and alpha / rank."""
    save_peft(tmp_path / name, LoraFile(FILE, table))
    lora = LoraFile(tmp_path / name, table)
    assert set(lora.settings.values()) == {(4, 2.0)}
    assert len(lora.deltas("single_blocks.0.linear1")) == 4
    save_kohya(tmp_path / "again.safetensors", lora)
    assert_same_bits(tmp_path / "again.safetensors", FILE)


def test_the_peft_form_gives_the_golden_outputs(tmp_path, table):
    save_peft(tmp_path / "lora.safetensors", LoraFile(FILE, table))
    inputs = read_case(BASE)
    weights = open_weights(BASE, loras=[(tmp_path / "lora.safetensors", 1.0)])
    model = load_for_case(weights, inputs)
    with jax.default_matmul_precision("highest"):
        rows = list(forward_rows(model, inputs, read_case(FOLDER)))
    assert rows
    assert not [row for row in rows if not row.ok]


def test_every_layer_in_peft_survives_the_fused_form(tmp_path, table):
    """Each split layer has its own down: blocks of the fused layer, which are split exactly."""
    random_lora(table, tmp_path / "peft.safetensors")
    first = LoraFile(tmp_path / "peft.safetensors", table)
    assert first.shapes.keys() == linear_shapes(table).keys()
    save_kohya(tmp_path / "kohya.safetensors", first)
    second = LoraFile(tmp_path / "kohya.safetensors", table)
    assert second.settings["lora_unet_double_blocks_0_img_attn_qkv"] == (6, 6.0)
    assert second.settings["lora_unet_single_blocks_0_linear1"] == (8, 8.0)
    assert second.settings["lora_unet_single_blocks_0_linear2"] == (2, 2.0)
    assert_same_merged(first, second, table)

    save_peft(tmp_path / "again.safetensors", second)
    for key, x in load_file(tmp_path / "again.safetensors").items():
        want = load_file(tmp_path / "peft.safetensors")[key.removeprefix("transformer.")]
        np.testing.assert_array_equal(x, want)
    again = LoraFile(tmp_path / "again.safetensors", table)
    assert set(again.settings.values()) == {(2, 2.0)}
    assert len(again.settings) == len(first.settings)


def test_parts_that_are_missing_are_zero(tmp_path, table):
    layers = ["transformer_blocks.1.attn.to_v", "single_transformer_blocks.2.proj_mlp"]
    random_lora(table, tmp_path / "peft.safetensors", layers)
    first = LoraFile(tmp_path / "peft.safetensors", table)
    save_kohya(tmp_path / "kohya.safetensors", first)
    assert_same_merged(first, LoraFile(tmp_path / "kohya.safetensors", table), table)


def test_scale_and_shift_change_places(tmp_path, table):
    """Official: shift, scale. diffusers: scale, shift; the down is unchanged."""
    module, (out, c_in) = "final_layer.adaLN_modulation.1", (128, 64)
    up = np.arange(out * 2, dtype=np.float32).reshape(out, 2)
    down = np.ones((2, c_in), np.float32)
    (layer,) = diffusers_layers(module, (out, c_in))
    ((_, piece),) = split_delta(LoraDelta(0, down, up, 2.0), [layer])
    assert layer.name == "norm_out.linear"
    np.testing.assert_array_equal(piece.up, np.concatenate([up[64:], up[:64]]))
    np.testing.assert_array_equal(piece.down, down)
    np.testing.assert_array_equal(layer.restore_order(piece.up), up)


def test_parts_of_other_strengths_keep_them():
    """alpha / rank of 1/2 and 3: the fused delta has one, so the second up is multiplied by 6."""
    rng = np.random.default_rng(0)
    pieces = [
        LoraDelta(0, *(rng.normal(size=s).astype(np.float32) for s in ((4, 7), (5, 4))), 2.0),
        LoraDelta(5, *(rng.normal(size=s).astype(np.float32) for s in ((2, 7), (5, 2))), 6.0),
    ]
    both = fuse_deltas(pieces, 12)  # two rows belong to no delta
    assert (both.rank, both.alpha) == (6, 3.0)
    want = np.zeros((12, 7))
    for p, scale in zip(pieces, (0.5, 3.0), strict=True):
        want[p.start : p.start + 5] = scale * np.float64(p.up) @ p.down
    np.testing.assert_allclose(both.scale * both.up @ both.down, want, rtol=1e-5, atol=1e-6)


def test_a_fresh_lora_whose_ups_are_zero_keeps_its_downs():
    """Zero ups look block-diagonal; split as blocks, a layer would have less than its rank."""
    rng = np.random.default_rng(0)
    shape = (96, 32)
    fused = LoraDelta(0, rng.normal(size=(6, 32)), np.zeros((96, 6)), 6.0)
    parts = split_delta(fused, diffusers_layers("double_blocks.0.img_attn.qkv", shape))
    assert [piece.rank for _, piece in parts] == [6, 6, 6]
    back = fuse_deltas([piece for _, piece in parts], 96)
    np.testing.assert_array_equal(back.down, fused.down)
    assert back.alpha == 6.0


def test_any_lora_becomes_our_adapters(tmp_path, config, table):
    """Ranks of 2 to 8, and only one block of three: padded with zeros, merging gives the same."""
    layers = ["transformer_blocks.1.attn.to_q", "transformer_blocks.1.attn.to_v"]
    layers += ["single_transformer_blocks.2.proj_out", "transformer_blocks.0.norm1.linear"]
    random_lora(table, tmp_path / "peft.safetensors", layers)
    first = LoraFile(tmp_path / "peft.safetensors", table)
    adapters, settings = to_adapters(first, config)
    assert (settings.rank, settings.alpha) == (4, 4.0)
    assert settings.targets == (
        "double_blocks.*.img_attn.qkv", "double_blocks.*.img_mod.lin", "single_blocks.*.linear2",
    )  # fmt: skip
    ours = Adapters(adapters, config, settings)
    assert first.shapes.keys() < ours.shapes.keys()
    for module, shape in ours.shapes.items():
        name = f"{module}.weight"
        zeros = InMemory({name: np.zeros(shape, np.float32)})
        x, y = (Merged(zeros, [(lora, 1.0)]).read(name) for lora in (first, ours))
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
        assert x.any() == (module in first.shapes)


def test_adapters_of_a_published_lora_are_what_is_in_the_file(tmp_path, config, table):
    adapters, settings = to_adapters(LoraFile(FILE, table), config)
    assert (settings.rank, settings.alpha) == (4, 2.0)
    save_kohya(tmp_path / "again.safetensors", Adapters(adapters, config, settings))
    assert_same_bits(tmp_path / "again.safetensors", FILE)


def test_dtypes_are_kept_or_asked_for(tmp_path, table):
    save_peft(tmp_path / "half.safetensors", LoraFile(FILE, table), "bfloat16")
    half = LoraFile(tmp_path / "half.safetensors", table)
    save_kohya(tmp_path / "kohya.safetensors", half)
    for path in ("half", "kohya"):
        file = SafetensorsFile(tmp_path / f"{path}.safetensors")
        stored = {str(x) for name, x in file.dtypes.items() if not name.endswith(".alpha")}
        assert stored == {"bfloat16"}


def test_full_size_names_are_those_of_the_published_files(tmp_path):
    """diffusers' model has 19 double blocks of 14 layers and 38 single blocks of 6."""
    table = model_table(step1x_edit_v1_1())
    names = [
        rows.name
        for module, shape in linear_shapes(table).items()
        for rows in diffusers_layers(module, shape)
    ]
    assert len(set(names)) == len(names)
    blocks = [name for name in names if "_blocks." in name and "connector" not in name]
    assert len(blocks) == 19 * 14 + 38 * 6
    others = {name for name in names if "blocks." not in name and "connector" not in name}
    assert others == {
        "x_embedder", "context_embedder", "norm_out.linear", "proj_out", "time_embed.in_layer",
        "time_embed.out_layer", "vec_embed.in_layer", "vec_embed.out_layer",
    }  # fmt: skip
    sizes = {
        rows.name: rows.size
        for rows in diffusers_layers("single_blocks.7.linear1", (9216 + 12288, 3072))
    }
    assert sizes == {
        "single_transformer_blocks.7.attn.to_q": 3072,
        "single_transformer_blocks.7.attn.to_k": 3072,
        "single_transformer_blocks.7.attn.to_v": 3072,
        "single_transformer_blocks.7.proj_mlp": 12288,
    }


def test_settings_of_unequal_layers_are_told_apart(tmp_path, table):
    """The last layer is named proj_out, and so is a layer of every single block."""
    singles = [f"single_transformer_blocks.{i}.proj_out" for i in range(3)]
    random_lora(table, tmp_path / "a.safetensors", ["proj_out"], rank=3)
    random_lora(table, tmp_path / "b.safetensors", singles, rank=5)
    both = load_file(tmp_path / "a.safetensors") | load_file(tmp_path / "b.safetensors")
    save_file(both, tmp_path / "both.safetensors")
    save_peft(tmp_path / "again.safetensors", LoraFile(tmp_path / "both.safetensors", table))
    settings = LoraFile(tmp_path / "again.safetensors", table).settings
    ranks = {name.removeprefix("transformer."): rank for name, (rank, _) in settings.items()}
    assert ranks == {"proj_out": 3} | dict.fromkeys(singles, 5)
    with safe_open(tmp_path / "again.safetensors", "np") as file:
        assert '"transformer.r": ' in file.metadata()["lora_adapter_metadata"]


def products(path, table):
    """Returns the products of all official layers in float64."""
    lora = LoraFile(path, table)
    result = {}
    for module, shape in lora.shapes.items():
        total = np.zeros(shape)
        for piece in lora.deltas(module):
            part = piece.up.astype(np.float64) @ piece.down.astype(np.float64)
            total[piece.start : piece.start + len(part)] += piece.alpha / piece.rank * part
        result[module] = total
    return result


@pytest.mark.parametrize("alpha", [1, 3, 4, 8, 0.7])
def test_diffusers_file_has_its_strength_in_the_tensors(tmp_path, table, alpha):
    """up @ down is what the LoRA adds, for readers that ignore alpha."""
    tensors = load_file(FILE)
    for key in tensors:
        if key.endswith(".alpha"):
            tensors[key] = np.array(alpha, np.float32)
    save_file(tensors, tmp_path / "kohya.safetensors")
    first = LoraFile(tmp_path / "kohya.safetensors", table)
    save_peft(tmp_path / "diffusers.safetensors", first)
    written = load_file(tmp_path / "diffusers.safetensors")
    want = products(tmp_path / "kohya.safetensors", table)
    name = "transformer.single_transformer_blocks.0.proj_out"
    bare = written[f"{name}.lora_B.weight"].astype(np.float64) @ written[f"{name}.lora_A.weight"]
    np.testing.assert_allclose(bare, want["single_blocks.0.linear2"], rtol=1e-5, atol=1e-7)
    found = products(tmp_path / "diffusers.safetensors", table)
    for (
        module,
        product,
    ) in want.items():  # rounded once to float32 unless alpha / rank is a power of two
        np.testing.assert_allclose(found[module], product, rtol=1e-5, atol=1e-6)
    with safe_open(tmp_path / "diffusers.safetensors", "np") as file:
        metadata = file.metadata()
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert settings["transformer.lora_alpha"] == settings["transformer.r"] == 4
    save_kohya(tmp_path / "again.safetensors", LoraFile(tmp_path / "diffusers.safetensors", table))
    if alpha in (1, 4, 8):  # a power of two: exact
        assert_same_bits(tmp_path / "again.safetensors", tmp_path / "kohya.safetensors")


def test_a_lora_that_is_not_finite_is_not_written(tmp_path, table):
    tensors = load_file(FILE)
    key = "lora_unet_single_blocks_0_linear2.lora_up.weight"
    tensors[key] = tensors[key].copy()
    tensors[key][0, 0] = 1e38
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="not finite, or too large for float16"):
        save_kohya(tmp_path / "out" / "y.safetensors", LoraFile(tmp_path / "x.safetensors", table),
                   "float16")  # fmt: skip
    assert not list((tmp_path / "out").iterdir())
