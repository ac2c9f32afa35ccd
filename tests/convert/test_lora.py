"""LoRA files: reading, merging, what is refused. Merged outputs are in tests/test_golden.py (lora);
files that we write, and pieces put together and taken apart, in test_lora_files.py."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.convert.keys import model_table
from step1x_jax.convert.lora import LoraFile
from step1x_jax.convert.lora_merging import merged
from step1x_jax.convert.official import load_model
from step1x_jax.convert.safetensors_io import SafetensorsFile
from step1x_jax.errors import UserError
from tests.golden import VECTORS

FILE = VECTORS / "lora" / "lora_kohya.safetensors"
MODULE = "lora_unet_single_blocks_0_linear1"
DOUBLE = "transformer_blocks.0"


@pytest.fixture(scope="module")
def table():
    return model_table(load_model(VECTORS / "dit_v1_0").config)


@pytest.fixture(scope="module")
def base():
    return SafetensorsFile(VECTORS / "dit_v1_0" / "weights.safetensors")


def test_merging_adds_alpha_over_rank_times_up_down(table, base):
    tensors = load_file(FILE)
    read = merged(base.read, [(LoraFile(FILE, table), 0.5)])
    up, down = tensors[f"{MODULE}.lora_up.weight"], tensors[f"{MODULE}.lora_down.weight"]
    name = "single_blocks.0.linear1.weight"
    want = base.read(name).astype(np.float64) + 0.5 * (2.0 / 4) * np.float64(up) @ down
    np.testing.assert_allclose(read(name), want, rtol=1e-5, atol=1e-7)  # float32 sum
    np.testing.assert_array_equal(read("img_in.weight"), base.read("img_in.weight"))


def test_several_are_added_before_the_sum_is_rounded(table, base):
    """1 + 3/1024 is 1 in bfloat16, but 1 + 6/1024 is 1 + 1/128."""
    lora = LoraFile(FILE, table)
    name, module = "single_blocks.0.linear1.weight", "single_blocks.0.linear1"
    (piece,) = lora.pieces(module)
    delta = piece.up @ piece.down  # its alpha / rank is 1/2
    flat = np.argmax(np.abs(delta))
    scale = 2 * 3 / 1024 / delta.flat[flat]
    ones = np.ones(base.shapes[name], jnp.bfloat16)
    once = merged(lambda _, rows=None: ones, [(lora, scale)])(name)
    twice = merged(lambda _, rows=None: ones, [(lora, scale), (lora, scale)])(name)
    negative = merged(lambda _, rows=None: ones, [(lora, scale), (lora, -scale)])(name)
    assert float(once.flat[flat]) == 1.0
    assert float(twice.flat[flat]) == 1 + 1 / 128
    np.testing.assert_array_equal(negative, ones)


def peft_tensors(prefix="transformer.", width=64, rank=2, halves=("lora_A", "lora_B"), dot="."):
    """q and k of a double block, whose names end in `halves`."""
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in ("to_q", "to_k"):
        name = prefix + f"{DOUBLE}.attn.{layer}".replace(".", dot)
        for half, shape in zip(halves, ((rank, width), (width, rank)), strict=True):
            tensors[f"{name}.{half}.weight"] = rng.normal(size=shape).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def width(table):
    return table["double_blocks.0.img_attn.proj.weight"].shape[0]


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model.", "lora_transformer_"])
def test_parts_are_rows_of_the_fused_layer(tmp_path, table, width, prefix):
    """In PEFT's names with and without what stands before them, and as kohya joins them."""
    kohya = prefix.startswith("lora_")
    if kohya:
        tensors = peft_tensors(prefix, width, halves=("lora_down", "lora_up"), dot="_")
    else:
        tensors = peft_tensors(prefix, width)
    down, _, _, up = tensors.values()
    if kohya:
        tensors[f"{prefix}transformer_blocks_0_attn_to_k.alpha"] = np.array(4, np.float32)
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = LoraFile(tmp_path / "lora.safetensors", table)
    q, k = lora.pieces("double_blocks.0.img_attn.qkv")
    assert (q.start, k.start) == (0, width)
    np.testing.assert_array_equal(q.down, down)
    np.testing.assert_array_equal(k.up, up)
    assert (q.alpha, k.alpha) == (2, 4 if kohya else 2)  # without alpha: the rank
    zeros = np.zeros((3 * width, width), np.float32)
    full = merged(lambda _, rows=None: zeros, [(lora, 1.0)])("double_blocks.0.img_attn.qkv.weight")
    np.testing.assert_allclose(full[:width], q.up @ q.down, rtol=1e-6)
    np.testing.assert_allclose(full[width : 2 * width], k.scale * k.up @ k.down, rtol=1e-6)
    assert not full[2 * width :].any()


def test_alpha_in_the_settings(tmp_path, table, width):
    """PEFT's folder, and diffusers' header; patterns are of names, and ^ is their beginning."""
    config = {"r": 2, "lora_alpha": 8, "alpha_pattern": {"^transformer_blocks.0.attn.to_k": 3}}
    tensors = peft_tensors("base_model.model.", width)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    values = {f"transformer.{key}": value for key, value in config.items()}
    values["text_encoder.lora_alpha"] = 99
    save_file(
        peft_tensors(width=width),
        tmp_path / "one.safetensors",
        {"lora_adapter_metadata": json.dumps(values)},
    )
    for path in (tmp_path, tmp_path / "one.safetensors"):
        q, k = LoraFile(path, table).pieces("double_blocks.0.img_attn.qkv")
        assert (q.alpha, k.alpha) == (8, 3)


def bad_kohya(change):
    tensors = load_file(FILE)
    change(tensors)
    return tensors, {}


def bad_peft(change, **settings):
    tensors = peft_tensors()
    change(tensors)
    return tensors, settings


REFUSED = {
    "text encoder": (
        bad_kohya(lambda t: t.update({"lora_te_encoder_q.alpha": np.array(1, np.float32)})),
        "lora_te_encoder_q.alpha belongs to no linear layer",
    ),
    "no such block": (
        bad_kohya(lambda t: t.update({f"{MODULE.replace('0', '7')}.lora_up.weight": t[
            f"{MODULE}.lora_up.weight"]})),
        "lora_unet_single_blocks_7_linear1.lora_up.weight belongs to no linear layer",
    ),
    "unknown kind": (
        bad_kohya(lambda t: t.update({f"{MODULE}.hada_w1_a": np.ones((2, 2), np.float32)})),
        f"{MODULE}.hada_w1_a is neither the down, the up nor the alpha",
    ),
    "no partner": (
        bad_kohya(lambda t: t.pop(f"{MODULE}.lora_up.weight")),
        f"{MODULE}.* is there without the layer's up",
    ),
    "no down": (
        bad_kohya(lambda t: t.pop(f"{MODULE}.lora_down.weight")),
        f"{MODULE}.* is there without the layer's down",
    ),
    "other sizes": (
        bad_kohya(lambda t: t.update({f"{MODULE}.lora_up.weight": np.zeros((5, 4), np.float32)})),
        "was made for another model",
    ),
    "convolution": (
        bad_kohya(lambda t: t.update({f"{MODULE}.lora_down.weight": t[
            f"{MODULE}.lora_down.weight"][..., None]})),
        "was made for another model",
    ),
    "integers": (
        bad_kohya(lambda t: t.update({f"{MODULE}.lora_up.weight": t[
            f"{MODULE}.lora_up.weight"].astype(np.int8)})),
        f"{MODULE}.lora_up.weight is int8",
    ),
    "alpha": (
        bad_kohya(lambda t: t.update({f"{MODULE}.alpha": np.array(np.nan, np.float32)})),
        f"{MODULE}.alpha has numbers that are not finite",
    ),
    "rank 0": (
        bad_kohya(lambda t: t.update({
            f"{MODULE}.lora_up.weight": t[f"{MODULE}.lora_up.weight"][:, :0].copy(),
            f"{MODULE}.lora_down.weight": t[f"{MODULE}.lora_down.weight"][:0].copy()})),
        "has rank 0, but a layer of .* takes 1 to",
    ),
    "absurd rank": (
        bad_kohya(lambda t: t.update({
            f"{MODULE}.lora_up.weight": np.zeros((t[f"{MODULE}.lora_up.weight"].shape[0], 9999),
                                                 np.float32),
            f"{MODULE}.lora_down.weight": np.zeros((9999, t[f"{MODULE}.lora_down.weight"].shape[1]),
                                                   np.float32)})),
        "has rank 9999, but a layer of .* takes 1 to",
    ),
    "fused and in parts": (
        bad_kohya(lambda t: t.update({
            key.replace("0.lora", "x.lora"): x for key, x in {
                "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight":
                    t["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"],
                "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight":
                    t["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"][:64].copy(),
            }.items()})),
        "both adapt double_blocks.0.img_attn.qkv",
    ),
    "kohya and PEFT of one layer": (
        bad_kohya(lambda t: t.update({
            f"transformer.single_transformer_blocks.0.proj_out.lora_{new}.weight": t[
                f"lora_unet_single_blocks_0_linear2.lora_{old}.weight"]
            for new, old in (("A", "down"), ("B", "up"))})),
        "both adapt single_blocks.0.linear2",
    ),
    "one half twice": (
        bad_peft(lambda t: t.update({f"{DOUBLE}.attn.to_q.lora_A.weight": t[
            f"transformer.{DOUBLE}.attn.to_q.lora_A.weight"]})),
        "are the same half of the same layer",
    ),
    "settings of another": (
        bad_peft(lambda t: None, r=16, lora_alpha=16),
        "has rank 2, its settings say 16",
    ),
    "settings without alpha": (bad_peft(lambda t: None, r=2), "lora_alpha .* cannot be read"),
    "rslora": (bad_peft(lambda t: None, r=2, lora_alpha=2, use_rslora=True), "has use_rslora"),
    "dora": (
        bad_peft(lambda t: t.update({
            f"transformer.{DOUBLE}.attn.to_q.lora_magnitude_vector": np.ones(64, np.float32)})),
        "lora_magnitude_vector is neither",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_belong_is_named(tmp_path, table, case):
    (tensors, settings), words = REFUSED[case]
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(UserError, match=words) as error:
        LoraFile(tmp_path / "bad.safetensors", table)
    assert "bad.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_model.double_blocks.0.img_attn.proj",
        "base_model.model.double_blocks.0.img_attn.proj",
        "transformer.transformer_blocks.0.attn.to_out.0",
        "lora_unet_transformer_blocks_0_attn_to_out_0",
        "lora_transformer_transformer_blocks_0_attn_to_out_0",
        "lora_unet_double_blocks_0_img_attn_proj",
    ],
)
@pytest.mark.parametrize("halves", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_names_and_halves_in_any_pairing(tmp_path, table, width, name, halves):
    down, up = np.ones((2, width), np.float16), np.full((width, 2), 2, np.float16)
    tensors = {f"{name}.{half}.weight": x for half, x in zip(halves, (down, up), strict=True)}
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = LoraFile(tmp_path / "lora.safetensors", table)
    assert lora.shapes == {"double_blocks.0.img_attn.proj": (width, width)}
    (piece,) = lora.pieces("double_blocks.0.img_attn.proj")
    np.testing.assert_array_equal(piece.up, up)
    assert lora.settings == {name: (2, 2.0)}


def test_an_empty_file(tmp_path, table):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="is empty; give the file of a LoRA"):
        LoraFile(tmp_path / "empty.safetensors", table)


def test_a_folder_without_a_lora(tmp_path, table):
    with pytest.raises(UserError, match=r"holds none of adapter_model\.safetensors"):
        LoraFile(tmp_path, table)
