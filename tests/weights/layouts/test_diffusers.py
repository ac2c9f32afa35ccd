"""diffusers' folders: where each number is stored, and exact round trips."""

import json
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.config import PRESETS
from step1x_jax.weights.component_paths import locate_components
from step1x_jax.weights.diffusers_folder import FOLDED, write_folder
from step1x_jax.weights.files import shards
from step1x_jax.weights.layouts.diffusers import transformer_layout
from step1x_jax.weights.open import official_shapes, open_weights
from step1x_jax.weights.save import write_diffusers, write_official
from tests.golden import VECTORS

FILE = "weights.safetensors"
STORED = "diffusion_pytorch_model.safetensors"


def written(tmp_path, name):
    """A golden model as diffusers' folder."""
    write_diffusers(tmp_path / name, {"part": open_weights(VECTORS / name)})
    return tmp_path / name


def both():
    """A model and an autoencoder."""
    names = {"transformer": "dit_v1_1", "vae": "vae"}
    return {part: open_weights(VECTORS / name) for part, name in names.items()}


@pytest.mark.parametrize("name", ["dit_v1_1", "vae"])
def test_there_and_back_byte_for_byte(tmp_path, name):
    folder = written(tmp_path, name)
    back = open_weights(folder)
    write_official(tmp_path / "back" / FILE, {"vae" if name == "vae" else "transformer": back})
    assert (tmp_path / "back" / FILE).read_bytes() == (VECTORS / name / FILE).read_bytes()
    want = json.loads((VECTORS / name / "config.json").read_text())
    assert json.loads((tmp_path / "back" / "config.json").read_text()).items() >= want.items()


def test_which_rows_lie_where(tmp_path):
    """Against the class of diffusers' pull request 12249, one module of each type by hand."""
    theirs = load_file(written(tmp_path, "dit_v1_1") / STORED)
    ours = load_file(VECTORS / "dit_v1_1" / FILE)
    d = 64
    for kind in ("weight", "bias"):
        q, k, v = np.split(ours[f"double_blocks.1.img_attn.qkv.{kind}"], 3)
        add_q, add_k, add_v = np.split(ours[f"double_blocks.1.txt_attn.qkv.{kind}"], 3)
        single_q, single_k, single_v, mlp = np.split(
            ours[f"single_blocks.2.linear1.{kind}"], [d, 2 * d, 3 * d]
        )
        shift, scale = np.split(ours[f"final_layer.adaLN_modulation.1.{kind}"], 2)
        block, single = "transformer_blocks.1", "single_transformer_blocks.2"
        want = {
            f"{block}.attn.to_q": q,
            f"{block}.attn.to_k": k,
            f"{block}.attn.to_v": v,
            f"{block}.attn.add_q_proj": add_q,
            f"{block}.attn.add_k_proj": add_k,
            f"{block}.attn.add_v_proj": add_v,
            f"{block}.attn.to_out.0": ours[f"double_blocks.1.img_attn.proj.{kind}"],
            f"{block}.attn.to_add_out": ours[f"double_blocks.1.txt_attn.proj.{kind}"],
            f"{block}.norm1.linear": ours[f"double_blocks.1.img_mod.lin.{kind}"],
            f"{block}.norm1_context.linear": ours[f"double_blocks.1.txt_mod.lin.{kind}"],
            f"{block}.ff.net.0.proj": ours[f"double_blocks.1.img_mlp.0.{kind}"],
            f"{block}.ff_context.net.2": ours[f"double_blocks.1.txt_mlp.2.{kind}"],
            f"{single}.attn.to_q": single_q,
            f"{single}.attn.to_k": single_k,
            f"{single}.attn.to_v": single_v,
            f"{single}.proj_mlp": mlp,
            f"{single}.proj_out": ours[f"single_blocks.2.linear2.{kind}"],
            f"{single}.norm.linear": ours[f"single_blocks.2.modulation.lin.{kind}"],
            "norm_out.linear": np.concatenate([scale, shift]),
            "proj_out": ours[f"final_layer.linear.{kind}"],
            "x_embedder": ours[f"img_in.{kind}"],
            "context_embedder": ours[f"txt_in.{kind}"],
            "time_embed.in_layer": ours[f"time_in.in_layer.{kind}"],
            "vec_embed.out_layer": ours[f"vector_in.out_layer.{kind}"],
        }
        for name, array in want.items():
            np.testing.assert_array_equal(theirs[f"{name}.{kind}"], array, err_msg=name)
    for stream, norm in (("img", "norm"), ("txt", "norm_added")):
        for ours_, theirs_ in (("query", "q"), ("key", "k")):
            np.testing.assert_array_equal(
                theirs[f"transformer_blocks.0.attn.{norm}_{theirs_}.weight"],
                ours[f"double_blocks.0.{stream}_attn.norm.{ours_}_norm.scale"],
            )
    connector = {n for n in ours if n.startswith("connector.")}
    assert connector == {n for n in theirs if n.startswith("connector.")}
    # weights and biases; 3 for one qkv in 2 streams of 2 blocks, 4 for one linear1 in 3 blocks
    assert len(theirs) == len(ours) + 2 * (2 * 2 * 2 + 3 * 3)


@pytest.mark.slow
def test_the_full_size_has_every_number_once():
    official = official_shapes(PRESETS["step1x_edit_v1_1"]())
    layout = transformer_layout(official, 3072)
    for side in (layout.source, layout.target):
        assert sum(np.prod(shape, dtype=int) for shape in side.values()) == 12_427_800_384
    rows = [
        (move.target, move.target_start + i) for move in layout.ranges for i in range(move.size)
    ]
    assert len(rows) == len(set(rows)) == sum(s[0] for s in layout.target.values())


def test_v1_0_is_folded_and_says_so(tmp_path):
    folder = written(tmp_path, "dit_v1_0")
    ours, theirs = load_file(VECTORS / "dit_v1_0" / FILE), load_file(folder / STORED)
    name = "connector.global_proj_out"
    scale = ours["connector.scale_factor"]
    np.testing.assert_array_equal(theirs[f"{name}.weight"], ours[f"{name}.weight"] * (1 + scale))
    np.testing.assert_array_equal(theirs[f"{name}.bias"], ours[f"{name}.bias"])
    assert "connector.scale_factor" not in theirs
    assert open_weights(folder).tensors.metadata["note"] == FOLDED
    back = open_weights(folder)  # computes the same, with the positions of v1.0
    assert back.config.version == "v1.0"
    assert back.tensors.read("connector.scale_factor") == [0.0]


def test_shards_and_their_index(tmp_path, monkeypatch):
    weights = open_weights(VECTORS / "dit_v1_1")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(shards, "SHARD_BYTES", 1_000_000)
    write_folder(tmp_path / "folder", weights.tensors, weights.config, weights.settings)
    files = sorted(path.name for path in (tmp_path / "folder").glob("*.safetensors"))
    assert files == [f"diffusion_pytorch_model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    index = json.loads((tmp_path / "folder" / f"{STORED}.index.json").read_text())
    assert index["metadata"]["total_size"] == 3_401_344
    for file in files:
        held = load_file(tmp_path / "folder" / file)
        assert {n for n, where in index["weight_map"].items() if where == file} == set(held)
        assert sum(x.nbytes for x in held.values()) <= 1_000_000
    back = open_weights(tmp_path / "folder")
    for name, want in load_file(VECTORS / "dit_v1_1" / FILE).items():
        np.testing.assert_array_equal(back.tensors.read(name), want)


def test_little_memory_is_needed(tmp_path):
    """Converts a model of 3.4 MB, with tensors of at most 0.15 MB, within 0.8 MB."""
    weights = open_weights(VECTORS / "dit_v1_1")
    tracemalloc.start()
    write_diffusers(tmp_path / "there", {"transformer": weights})
    write_official(tmp_path / FILE, {"transformer": open_weights(tmp_path / "there")})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800_000


def test_a_pipeline(tmp_path):
    write_diffusers(tmp_path / "pipeline", both())
    index = json.loads((tmp_path / "pipeline" / "model_index.json").read_text())
    assert index["_class_name"] == "Step1XEditPipeline"
    assert index["transformer"] == ["diffusers", "Step1XEditTransformer2DModel"]
    found = locate_components(tmp_path / "pipeline")
    parts = {"transformer": open_weights(found.model), "vae": open_weights(found.autoencoder)}
    write_official(tmp_path / "back", parts)
    for part, name in (("transformer", "dit_v1_1"), ("autoencoder", "vae")):
        want = (VECTORS / name / FILE).read_bytes()
        assert (tmp_path / "back" / part / FILE).read_bytes() == want


def test_parts_of_one_tensor_in_two_dtypes_are_joined_without_loss(tmp_path):
    folder = written(tmp_path, "dit_v1_1")
    arrays = load_file(folder / STORED)
    names = [f"transformer_blocks.0.attn.to_{x}.weight" for x in "qkv"]
    parts = dict(zip(names, (np.float32, jnp.bfloat16, np.float16), strict=True))
    mixed = {name: arrays[name].astype(dtype) for name, dtype in parts.items()}
    save_file(arrays | mixed, folder / STORED)
    joined = open_weights(folder).tensors.read("double_blocks.0.img_attn.qkv.weight")
    want = np.concatenate([mixed[name].astype(np.float64) for name in names])
    np.testing.assert_array_equal(joined.astype(np.float64), want)


def test_a_folder_that_does_not_fit_is_named(tmp_path):
    folder = written(tmp_path, "dit_v1_1")
    arrays = load_file(folder / STORED)
    save_file(arrays | {"extra.bias": np.zeros(3, np.float32)}, folder / STORED)
    with pytest.raises(UserError, match=r"extra\.bias is unexpected"):
        open_weights(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["_step1x_jax"], config["num_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json lacks a size.*num_layers"):
        open_weights(folder)


def test_sizes_from_diffusers_own_entries(tmp_path):
    """A folder by another program; theta and the MLP's width are fixed in the class."""
    folder = written(tmp_path, "dit_v1_1")
    config = json.loads((folder / "config.json").read_text())
    del config["_step1x_jax"]
    (folder / "config.json").write_text(json.dumps(config))
    assert open_weights(folder).config == open_weights(VECTORS / "dit_v1_1").config


def test_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("step1x_jax.weights.save.write_pipeline_json", full)
    with pytest.raises(UserError, match="No space left"):
        write_diffusers(tmp_path / "pipeline", both())
    assert list(tmp_path.iterdir()) == []
