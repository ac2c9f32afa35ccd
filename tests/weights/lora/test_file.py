"""LoRA files: reading, merging, refusals. Merged outputs are in tests/test_golden.py (lora);
writing, fusing and splitting are in test_writers.py."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.file import LoraFile
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.readers import InMemory
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
    read = Merged(base, [(LoraFile(FILE, table), 0.5)]).read
    up, down = tensors[f"{MODULE}.lora_up.weight"], tensors[f"{MODULE}.lora_down.weight"]
    name = "single_blocks.0.linear1.weight"
    want = base.read(name).astype(np.float64) + 0.5 * (2.0 / 4) * np.float64(up) @ down
    np.testing.assert_allclose(read(name), want, rtol=1e-5, atol=1e-7)  # float32 sum
    np.testing.assert_array_equal(read("img_in.weight"), base.read("img_in.weight"))


def test_several_are_added_before_the_sum_is_rounded(table, base):
    """1 + 3/1024 is 1 in bfloat16, but 1 + 6/1024 is 1 + 1/128."""
    lora = LoraFile(FILE, table)
    name, module = "single_blocks.0.linear1.weight", "single_blocks.0.linear1"
    (piece,) = lora.deltas(module)
    delta = piece.up @ piece.down  # its alpha / rank is 1/2
    flat = np.argmax(np.abs(delta))
    scale = 2 * 3 / 1024 / delta.flat[flat]
    ones = np.ones(base.shapes[name], jnp.bfloat16)
    only = InMemory({name: ones})
    once = Merged(only, [(lora, scale)]).read(name)
    twice = Merged(only, [(lora, scale), (lora, scale)]).read(name)
    negative = Merged(only, [(lora, scale), (lora, -scale)]).read(name)
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
    """In PEFT's names with and without prefixes, and in kohya's names."""
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
    q, k = lora.deltas("double_blocks.0.img_attn.qkv")
    assert (q.start, k.start) == (0, width)
    np.testing.assert_array_equal(q.down, down)
    np.testing.assert_array_equal(k.up, up)
    assert (q.alpha, k.alpha) == (2, 4 if kohya else 2)  # without alpha: the rank
    zeros = np.zeros((3 * width, width), np.float32)
    name = "double_blocks.0.img_attn.qkv.weight"
    full = Merged(InMemory({name: zeros}), [(lora, 1.0)]).read(name)
    np.testing.assert_allclose(full[:width], q.up @ q.down, rtol=1e-6)
    np.testing.assert_allclose(full[width : 2 * width], k.scale * k.up @ k.down, rtol=1e-6)
    assert not full[2 * width :].any()


def test_alpha_in_the_settings(tmp_path, table, width):
    """PEFT's folder, and diffusers' header; a pattern matches names, and ^ their beginning."""
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
        q, k = LoraFile(path, table).deltas("double_blocks.0.img_attn.qkv")
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
        "lora_te_encoder_q.alpha adapts a text encoder, .* with --ignore=text_encoder",
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
        f"{MODULE}.* has no up",
    ),
    "no down": (
        bad_kohya(lambda t: t.pop(f"{MODULE}.lora_down.weight")),
        f"{MODULE}.* has no down",
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
        "has rank 0, but a layer of .* can have 1 to",
    ),
    "absurd rank": (
        bad_kohya(lambda t: t.update({
            f"{MODULE}.lora_up.weight": np.zeros((t[f"{MODULE}.lora_up.weight"].shape[0], 9999),
                                                 np.float32),
            f"{MODULE}.lora_down.weight": np.zeros((9999, t[f"{MODULE}.lora_down.weight"].shape[1]),
                                                   np.float32)})),
        "has rank 9999, but a layer of .* can have 1 to",
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
    "settings without alpha": (
        bad_peft(lambda t: None, r=2),
        "lora_alpha is missing or not a number in the LoRA's settings"),
    "dora by its settings": (
        bad_peft(lambda t: None, r=2, lora_alpha=2, use_dora=True), "has use_dora"),
    "not a LoRA by its settings": (
        bad_peft(lambda t: None, r=2, lora_alpha=2, peft_type="LOHA"), "peft_type is 'LOHA'"),
    "changed base": (
        bad_peft(lambda t: None, r=2, lora_alpha=2, init_lora_weights="pissa_niter_4"),
        "was initialized with 'pissa_niter_4', which changes the base",
    ),
    "rank not a number": (
        bad_peft(lambda t: None, r="two", lora_alpha=2),
        "r is missing or not a number in the LoRA's settings"),
    "alpha not finite": (
        bad_peft(lambda t: None, r=2, lora_alpha=1e30), "lora_alpha is 1e\\+30; expected"),
    "alpha is a list": (bad_peft(lambda t: None, r=2, lora_alpha=[2]), "lora_alpha is \\[2\\]"),
    "patterns are a list": (
        bad_peft(lambda t: None, r=2, lora_alpha=2, rank_pattern=["a"]), "rank_pattern is"),
    "a pattern that backtracks": (
        bad_peft(lambda t: None, r=2, lora_alpha=2, rank_pattern={"(a+)+$": 2}),
        "rank_pattern: the pattern '\\(a\\+\\)\\+\\$' repeats parentheses",
    ),
    "dora": (
        bad_peft(lambda t: t.update({
            f"transformer.{DOUBLE}.attn.to_q.lora_magnitude_vector": np.ones(64, np.float32)})),
        "lora_magnitude_vector is neither .* belongs to a DoRA",
    ),
    "loha": (
        bad_kohya(lambda t: t.update({f"{MODULE}.hada_w1_a": np.ones((2, 2), np.float32)})),
        "belongs to a LoHa",
    ),
    "lokr": (
        bad_kohya(lambda t: t.update({f"{MODULE}.lokr_w1": np.ones((2, 2), np.float32)})),
        "belongs to a LoKr",
    ),
    "two adapters": (
        bad_peft(lambda t: t.update({
            f"transformer.{DOUBLE}.attn.{x}.lora_{half}.{name}.weight": t[
                f"transformer.{DOUBLE}.attn.to_q.lora_{half}.weight"]
            for name, x in (("one", "to_v"), ("two", "add_q_proj")) for half in "AB"})),
        "holds two adapters, (one and two|two and one)",
    ),
    "not finite": (
        bad_kohya(lambda t: t.update({f"{MODULE}.alpha": np.array(-1, np.float32)})),
        f"{MODULE}.alpha is -1, but an alpha must not be negative",
    ),
    "alphas of several numbers": (
        bad_kohya(lambda t: t.update({f"{MODULE}.alpha": np.ones(3, np.float32)})),
        r"alpha has shape \[3\]",
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
    (piece,) = lora.deltas("double_blocks.0.img_attn.proj")
    np.testing.assert_array_equal(piece.up, up)
    assert lora.settings == {name: (2, 2.0)}


def test_an_empty_file(tmp_path, table):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="is empty; give the file of a LoRA"):
        LoraFile(tmp_path / "empty.safetensors", table)


def test_a_folder_without_a_lora(tmp_path, table):
    with pytest.raises(UserError, match=r"holds none of adapter_model\.safetensors"):
        LoraFile(tmp_path, table)


# ------------------------------------------------ where files store alpha and rank

QKV = "double_blocks.0.img_attn.qkv"


def alphas(path, table, **how):
    return [piece.alpha for piece in LoraFile(path, table, **how).deltas(QKV)]


@pytest.mark.parametrize(
    ("metadata", "alpha"),
    [
        ({}, 2),
        ({"ss_network_alpha": "1", "ss_network_dim": "2"}, 1),
        ({"ss_network_alpha": "0.5"}, 0.5),
        ({"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}, 2),
        ({"lora_alpha": "8", "rank": "2"}, 8),
        ({"alpha": "1e-1"}, 0.1),
        ({"network_alpha": " 4.0 ", "network_dim": "2.0"}, 4),
        ({"format": "pt", "modelspec.title": "x"}, 2),
        ({"adapter_config": '{"r": 2, "lora_alpha": 6}'}, 6),
        ({"lora_adapter_metadata": '{"r": 2, "lora_alpha": 4, "use_rslora": true}'}, 4 * 2**0.5),
        ({"lora_adapter_metadata": '{"transformer.r": 2, "transformer.lora_alpha": 3}'}, 3),
    ],
)
def test_alpha_in_the_header_under_any_of_its_names(tmp_path, table, width, metadata, alpha):
    save_file(peft_tensors(width=width), tmp_path / "x.safetensors", metadata)
    assert alphas(tmp_path / "x.safetensors", table) == [alpha] * 2


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"ss_network_alpha": "1", "ss_network_dim": "16"}, "has rank 2, its settings say 16"),
        ({"ss_network_alpha": "Dynamic"}, "alpha is 'Dynamic', not a number"),
        ({"ss_network_alpha": "nan"}, "alpha is 'nan', not a number"),
        (
            {"ss_network_alpha": "1", "lora_alpha": "2"},
            "lora_alpha 2 and ss_network_alpha 1, which",
        ),
        (
            {"ss_network_alpha": "1", "lora_adapter_metadata": '{"r": 2, "lora_alpha": 3}'},
            "different alphas: 3 .* and 1 ",
        ),
        ({"lora_adapter_metadata": "[1]"}, "not a JSON object"),
        ({"lora_adapter_metadata": "{"}, "not valid JSON"),
        ({"lora_adapter_metadata": "[" * 100_000}, "nested too deeply"),
    ],
)
def test_headers_that_contradict_themselves_or_the_tensors(tmp_path, table, width, metadata, words):
    save_file(peft_tensors(width=width), tmp_path / "x.safetensors", metadata)
    with pytest.raises(UserError, match=words):
        LoraFile(tmp_path / "x.safetensors", table)


def test_alphas_of_their_own_go_before_what_a_header_says(tmp_path, table):
    """kohya's resized files say "Dynamic" and have an alpha beside each layer."""
    metadata = {"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}
    save_file(load_file(FILE), tmp_path / "x.safetensors", metadata)
    assert set(LoraFile(tmp_path / "x.safetensors", table).settings.values()) == {(4, 2.0)}


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("adapter_model", "adapter_config.json"), ("mine", "adapter_config.json"),
        ("pytorch_lora_weights", "adapter_config.json"), ("mine", "mine.json"),
        ("mine", "mine_config.json"), ("mine", "lora_config.json"),
    ],
)  # fmt: skip
def test_settings_beside_a_file_of_any_name(tmp_path, table, width, name, beside):
    save_file(peft_tensors(width=width), tmp_path / f"{name}.safetensors")
    (tmp_path / beside).write_text(json.dumps({"r": 2, "lora_alpha": 16}))
    assert alphas(tmp_path / f"{name}.safetensors", table) == [16] * 2
    assert alphas(tmp_path, table) == [16] * 2  # the folder's only file
    (tmp_path / beside).write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    with pytest.raises(UserError, match="has rank 2, its settings say 4"):
        LoraFile(tmp_path / f"{name}.safetensors", table)


def test_settings_of_another_file_do_not_count(tmp_path, table, width):
    for name in ("adapter_model", "other"):
        save_file(peft_tensors(width=width), tmp_path / f"{name}.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 16}))
    (tmp_path / "other.json").write_text('{"activation text": "x"}')
    assert alphas(tmp_path / "other.safetensors", table) == [2] * 2
    (tmp_path / "other.json").write_text("no JSON")
    assert alphas(tmp_path / "other.safetensors", table) == [2] * 2


def test_an_adapters_name_in_the_keys(tmp_path, table, width):
    tensors = peft_tensors("base_model.model.", width)
    named = {key.replace(".weight", ".default.weight"): x for key, x in tensors.items()}
    save_file(tensors, tmp_path / "plain.safetensors")
    save_file(named, tmp_path / "named.safetensors", {"lora_alpha": "6"})
    one, other = (LoraFile(tmp_path / f"{n}.safetensors", table) for n in ("plain", "named"))
    assert one.settings.keys() == other.settings.keys()
    for piece, same in zip(one.deltas(QKV), other.deltas(QKV), strict=True):
        np.testing.assert_array_equal(piece.down, same.down)
        np.testing.assert_array_equal(piece.up, same.up)
        assert same.alpha == 6


DIFFSYNTH = {
    "blocks.1.attn.a_to_qkv": ("double_blocks.1.img_attn.qkv", [(0, 192)]),
    "blocks.0.attn.b_to_out": ("double_blocks.0.txt_attn.proj", [(0, 64)]),
    "blocks.0.ff_a.2": ("double_blocks.0.img_mlp.2", [(0, 64)]),
    "blocks.0.norm1_b.linear": ("double_blocks.0.txt_mod.lin", [(0, 384)]),
    "single_blocks.2.to_qkv_mlp": ("single_blocks.2.linear1", [(0, 448)]),
    "single_blocks.2.proj_out": ("single_blocks.2.linear2", [(0, 64)]),
    "single_blocks.1.norm.linear": ("single_blocks.1.modulation.lin", [(0, 192)]),
    "final_norm_out.linear": ("final_layer.adaLN_modulation.1", [(64, 128), (0, 64)]),
    "final_proj_out": ("final_layer.linear", [(0, 64)]),
    "pooled_text_embedder.2": ("vector_in.out_layer", [(0, 64)]),
    "time_embedder.timestep_embedder.0": ("time_in.in_layer", [(0, 64)]),
    "time_text_embed.timestep_embedder.linear_1": ("time_in.in_layer", [(0, 64)]),
    "time_text_embed.text_embedder.linear_2": ("vector_in.out_layer", [(0, 64)]),
}


@pytest.mark.parametrize("name", DIFFSYNTH)
@pytest.mark.parametrize(
    "prefix", ["", "pipe.dit.", "model.diffusion_model.", "lora_unet_", "lycoris_", "unet."]
)
def test_names_of_other_programs(tmp_path, table, name, prefix):
    module, segments = DIFFSYNTH[name]
    out, width = (table[f"{module}.weight"].shape[i] for i in (0, 1))
    joined = name.replace(".", "_") if prefix.endswith("_") else name
    up = np.arange(out * 2, dtype=np.float32).reshape(out, 2)
    tensors = {f"{prefix}{joined}.lora_A.default.weight": np.ones((2, width), np.float32),
               f"{prefix}{joined}.lora_B.default.weight": up}  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors")
    (piece,) = LoraFile(tmp_path / "x.safetensors", table).deltas(module)
    published = np.empty_like(up)
    published[np.concatenate([np.arange(*segment) for segment in segments])] = up
    np.testing.assert_array_equal(piece.up, published)


def test_a_layer_whose_alpha_is_0_is_off(tmp_path, table, base):
    tensors = load_file(FILE)
    without = {key: x for key, x in tensors.items() if not key.startswith(f"{MODULE}.")}
    save_file(without, tmp_path / "without.safetensors")
    tensors[f"{MODULE}.alpha"] = np.array(0, np.float32)
    save_file(tensors, tmp_path / "off.safetensors")
    lora = LoraFile(tmp_path / "off.safetensors", table)
    assert lora.switched_off == [MODULE]
    other = LoraFile(tmp_path / "without.safetensors", table)
    assert lora.shapes == other.shapes
    one, two = (Merged(base, [(x, 1.0)]).read for x in (lora, other))
    for name in base.shapes:
        np.testing.assert_array_equal(one(name), two(name))
    off = {key: np.array(0, np.float32) if key.endswith("alpha") else x
           for key, x in tensors.items()}  # fmt: skip
    save_file(off, tmp_path / "all.safetensors")
    with pytest.raises(UserError, match="has no effect: all its alphas are 0"):
        LoraFile(tmp_path / "all.safetensors", table)


@pytest.mark.parametrize(
    "layer",
    ["lora_te1_text_model_encoder_layers_0_q", "text_encoder.text_model.q", "lora_te_encoder_q"],
)
def test_a_text_encoder_is_left_out_where_that_is_asked_for(tmp_path, table, layer):
    tensors = load_file(FILE)
    extra = {f"{layer}.lora_down.weight": np.ones((2, 768), np.float32),
             f"{layer}.lora_up.weight": np.ones((768, 2), np.float32)}  # fmt: skip
    save_file(tensors | extra, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="adapts a text encoder"):
        LoraFile(tmp_path / "x.safetensors", table)
    lora = LoraFile(tmp_path / "x.safetensors", table, ["text_encoder"])
    assert sorted(lora.ignored) == sorted(extra)
    assert lora.settings == LoraFile(FILE, table).settings


def test_sums_are_rounded_once_to_what_is_asked_for(table, base):
    """float64 of the bfloat16 base and the LoRA, rounded to float32, bfloat16 and float16."""
    lora = LoraFile(FILE, table)
    name = "single_blocks.0.linear1.weight"
    half = base.read(name).astype(jnp.bfloat16)
    (piece,) = lora.deltas("single_blocks.0.linear1")
    want = half.astype(np.float64) + piece.scale * piece.up.astype(np.float64) @ piece.down
    for dtype, size in ((np.float32, 2**-22), (jnp.bfloat16, 2**-8), (np.float16, 2**-10)):
        read = Merged(InMemory({name: half}), [(lora, 1.0)], {name: np.dtype(dtype)}).read
        found = read(name).astype(np.float64)
        assert read(name).dtype == dtype
        np.testing.assert_allclose(found, want, rtol=size, atol=1e-6)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_strength_that_is_not_finite(table, base, scale):
    with pytest.raises(UserError, match="the strength of a LoRA is"):
        Merged(base, [(LoraFile(FILE, table), scale)])


def test_a_sum_that_is_too_large(table, base):
    read = Merged(base, [(LoraFile(FILE, table), 1e39)]).read
    with pytest.raises(
        UserError, match=r"single_blocks\.0\.linear1\.weight with its LoRA overflows"
    ):
        read("single_blocks.0.linear1.weight")
