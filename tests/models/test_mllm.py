"""Qwen2.5-VL: padding, batches, compilation, sizes; tests/test_golden.py checks its numbers."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.mllm.config import (
    LanguageConfig,
    MLLMConfig,
    VisionConfig,
    mllm_from_json,
)
from step1x_jax.models.mllm.language import LanguageModel
from step1x_jax.models.mllm.model import MLLM, abstract_mllm
from step1x_jax.models.mllm.positions import (
    PADDING,
    pad_pictures,
    pad_prompts,
    padded_size,
    picture_layout,
    prompt_positions,
)
from step1x_jax.models.mllm.vision import VisionTower
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import batch_sharding, shardings
from step1x_jax.weights.language_model import load_mllm
from step1x_jax.weights.layouts.official import flatten_params
from step1x_jax.weights.layouts.qwen import mllm_table
from tests.golden import VECTORS

FOLDER = VECTORS / "mllm" / "model"
# One window; a row of windows; windows cut at the right, at the bottom, at both; one token high.
GRIDS = [(1, 8, 8), (1, 8, 24), (1, 10, 16), (1, 16, 10), (1, 14, 12), (1, 2, 30)]
PARAMETERS = 7_747_169_280  # of Qwen2.5-VL-7B without the 152064 x 3584 of lm_head

run = nnx.jit(MLLM.__call__)
run_vision = nnx.jit(VisionTower.__call__)


@functools.cache
def golden_model():
    return load_mllm(FOLDER)


def examples(config, grids, seed=0):
    """Returns random images in the processor's order, and prompts around them."""
    rng = np.random.default_rng(seed)
    vision = config.vision
    values = [rng.normal(size=(h * w, vision.patch_width)).astype(np.float32) for _, h, w in grids]
    ids = []
    for _, h, w in grids:
        before, after = (rng.integers(0, 500, n).tolist() for n in rng.integers(3, 20, 2))
        ids.append(before + [config.image_token_id] * (h * w // vision.merge_unit) + after)
    return values, ids


def batch(config, values, ids, grids, patches, tokens):
    pictures = pad_pictures(values, grids, config.vision, patches)
    return pictures, pad_prompts(ids, grids, config, tokens)


def singles(model, values, ids, grids):
    """Yields the last hidden state of each example alone, without padding."""
    for value, prompt, grid in zip(values, ids, grids, strict=True):
        one = batch(model.config, [value], [prompt], [grid], len(value), len(prompt))
        yield np.asarray(run(model, *one))[0]


@pytest.mark.slow
def test_a_padded_batch_of_mixed_lengths_equals_single_examples():
    model = golden_model()
    values, ids = examples(model.config, GRIDS)
    states = np.asarray(run(model, *batch(model.config, values, ids, GRIDS, 196, 112)))
    assert np.isfinite(states).all()  # also in the padding
    for row, want in zip(states, singles(model, values, ids, GRIDS), strict=True):
        # float32: sums that include masked keys are computed in another order
        np.testing.assert_allclose(row[: len(want)], want, atol=1e-5 * np.abs(want).max())


def test_padding_content_does_not_matter():
    model = golden_model()
    values, ids = examples(model.config, GRIDS[:2])
    pictures, prompts = batch(model.config, values, ids, GRIDS[:2], 196, 112)
    want = np.asarray(run(model, pictures, prompts))
    pixels = np.where(pictures.windows[..., None] == PADDING, 7.0, pictures.pixels)
    is_padding = np.arange(112) >= np.array(list(map(len, ids)))[:, None]
    other = prompts._replace(ids=np.where(is_padding, 5, prompts.ids))
    got = np.asarray(run(model, pictures._replace(pixels=np.float32(pixels)), other))
    for got_row, want_row, prompt in zip(got, want, ids, strict=True):
        np.testing.assert_array_equal(got_row[: len(prompt)], want_row[: len(prompt)])


def test_many_shapes_compile_once():
    graph, params = nnx.split(golden_model())
    encode = jax.jit(lambda params, *inputs: nnx.merge(graph, params)(*inputs))
    config = golden_model().config
    shapes = [(1, h, w) for h in range(2, 16, 2) for w in range(2, 16, 2)] + [(1, 2, 60)]
    for i, grid in enumerate(shapes):
        values, ids = examples(config, [grid], seed=i)
        encode(params, *batch(config, values, ids, [grid], 196, 112))
    assert len(shapes) == 50
    assert encode._cache_size() == 1


def test_a_mesh_changes_only_rounding():
    model = golden_model()
    values, ids = examples(model.config, GRIDS + GRIDS[:2])
    inputs = batch(model.config, values, ids, GRIDS + GRIDS[:2], 196, 112)
    want = np.asarray(run(model, *inputs))
    mesh = make_mesh(MeshConfig(data=2))
    _, abstract = abstract_mllm(model.config)
    placed = load_mllm(FOLDER, shardings=shardings(abstract, mesh))
    kernel = placed.language_model.layers.mlp.gate_proj.kernel[...]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", None)
    with jax.set_mesh(mesh):
        states = run(placed, *jax.device_put(inputs, batch_sharding(mesh)))
    np.testing.assert_allclose(states, want, atol=1e-5 * np.abs(want).max())  # float32


def test_bfloat16_stays_close_to_float32():
    """About 40 roundings of 2^-9 each: the error is below 3 % of the norm."""
    model = golden_model()
    values, ids = examples(model.config, GRIDS[:1])
    inputs = batch(model.config, values, ids, GRIDS[:1], 64, len(ids[0]))
    want = np.asarray(run(model, *inputs))
    states = run(load_mllm(FOLDER, dtype="bfloat16"), *inputs)
    assert states.dtype == jax.numpy.bfloat16
    error = np.linalg.norm(np.float32(states) - want) / np.linalg.norm(want)
    assert 1e-4 < error < 3e-2


def test_the_last_layer_output_gives_the_final_output():
    model = golden_model()
    values, ids = examples(model.config, GRIDS[:2])
    pictures, prompts = batch(model.config, values, ids, GRIDS[:2], 192, 112)
    blocks = nnx.jit(VisionTower.block_outputs)(model.visual, pictures)
    assert blocks.shape == (4, 2, 192, 48)
    tokens = run_vision(model.visual, pictures)
    np.testing.assert_allclose(model.visual.merger(blocks[-1]), tokens, atol=1e-5)  # of about 3
    embedded = nnx.jit(MLLM.embed)(model, pictures, prompts)
    layers = nnx.jit(LanguageModel.layer_outputs)(model.language_model, embedded, prompts.positions)
    assert layers.shape == (3, 2, 112, 64)
    want = run(model, pictures, prompts)
    np.testing.assert_allclose(model.language_model.norm(layers[-1]), want, atol=1e-4)  # of 5


@pytest.mark.parametrize("grid", GRIDS)
def test_window_order_against_loops_over_windows(grid):
    _, h, w = grid
    layout = picture_layout(grid, VisionConfig())
    patches, rows_columns, windows, tokens, window = [], [], [], [], -1
    for top in range(0, h // 2, 4):
        for left in range(0, w // 2, 4):
            window += 1
            for row in range(top, min(top + 4, h // 2)):
                for column in range(left, min(left + 4, w // 2)):
                    token = row * (w // 2) + column
                    tokens.append(token)
                    for i in range(4):
                        patches.append(4 * token + i)
                        rows_columns.append((2 * row + i // 2, 2 * column + i % 2))
                        windows.append(window)
    assert layout.order.tolist() == patches
    assert layout.positions.T.tolist() == [list(x) for x in rows_columns]
    assert layout.windows.tolist() == windows
    assert layout.window_index[tokens].tolist() == list(range(h * w // 4))


def test_values_in_the_padding():
    config = golden_model().config
    values, ids = examples(config, [(1, 2, 4)])
    pictures, prompts = batch(config, values, ids, [(1, 2, 4)], 12, len(ids[0]) + 2)
    assert pictures.windows[0].tolist() == [0] * 8 + [PADDING] * 4
    start = ids[0].index(config.image_token_id)
    assert prompts.image_index[0, start : start + 3].tolist() == [0, 1, PADDING]
    assert prompts.ids[0, -2:].tolist() == [0, 0]
    assert not prompts.positions[0, :, -2:].any()


def test_image_token_id_in_the_padding_is_ignored():
    """Padding has id 0, which may also be the model's image token."""
    config = dataclasses.replace(golden_model().config, image_token_id=0)
    prompts = pad_prompts([[5, 0, 6]], [(1, 2, 2)], config, 5)
    assert prompts.image_index[0].tolist() == [PADDING, 0, PADDING, PADDING, PADDING]


def test_mismatching_prompts_grids_and_sizes_are_refused():
    config = golden_model().config
    values, ids = examples(config, [(1, 2, 4)])
    picture = config.image_token_id
    for prompt in ([1, 2], [1, picture, 2], [picture, 1, picture], [picture] * 3):
        with pytest.raises(ValueError, match="expected 2, contiguous"):
            prompt_positions(prompt, (1, 2, 4), config)
    for grid in ((2, 2, 4), (1, 3, 4), (1, 4, 3), (1, 0, 4)):
        with pytest.raises(ValueError, match="expected one frame, and multiples of 2"):
            picture_layout(grid, config.vision)
    with pytest.raises(ValueError, match="at most 4 patches"):
        pad_pictures(values, [(1, 2, 4)], config.vision, 4)
    with pytest.raises(ValueError, match=r"expected \(16, 1176\) for its"):
        pad_pictures(values, [(1, 4, 4)], config.vision, 32)
    with pytest.raises(ValueError, match="not a multiple of 4"):
        pad_pictures(values, [(1, 2, 4)], config.vision, 10)
    with pytest.raises(ValueError, match="expected at most 5"):
        pad_prompts(ids, [(1, 2, 4)], config, 5)


def test_padded_sizes():
    assert [padded_size(n, (100, 40)) for n in (1, 40, 41, 100, 101, 301)] == [
        40, 40, 100, 100, 200, 400,
    ]  # fmt: skip


def config_json(name="config.json", **changes):
    return json.loads((FOLDER / name).read_text()) | changes


def test_flat_and_nested_formats_are_equivalent():
    flat_form, nested = (
        mllm_from_json(config_json(name), name) for name in ("config.json", "config_nested.json")
    )
    assert flat_form == nested
    assert flat_form.vision.fullatt_block_indexes == (1, 3)
    assert flat_form.language.mrope_section == (2, 3, 3)
    assert hash(flat_form) == hash(nested)


def test_absent_fields_have_the_defaults_of_transformers():
    vision = {"hidden_size": 1280, "out_hidden_size": 8192, "in_chans": 3}
    config = mllm_from_json({"model_type": "qwen2_5_vl", "vision_config": vision}, "config.json")
    assert config.vision == VisionConfig(out_hidden_size=8192)
    assert config.language == LanguageConfig(
        hidden_size=8192,
        intermediate_size=29568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
    )
    assert config.image_token_id == 151655


NESTED = "config_nested.json"
YARN = {"type": "yarn", "factor": 4.0, "mrope_section": [2, 3, 3]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (config_json(model_type="qwen2_vl"), "'qwen2_vl', not 'qwen2_5_vl'; give the folder"),
        (config_json(model_type="qwen3_vl"), "'qwen3_vl', not"),
        ({"architectures": ["LlamaForCausalLM"]}, "of type None, not"),
        (config_json(NESTED, text_config={"model_type": "qwen3_vl_text"}), "'qwen3_vl_text', not"),
        (config_json(vision_config={"model_type": "siglip"}), "'siglip', not"),
        (config_json(vision_config=[]), "vision_config must be a JSON object"),
        (config_json(rope_scaling=YARN), "has rope_type 'yarn', which is for"),
        (config_json(rope_scaling=[]), "mrope_section is .16, 24, 24.; use three numbers"),
        (config_json(rope_scaling="mrope"), "RoPE parameters must be a JSON object"),
        (config_json(use_sliding_window=True), "use_sliding_window, which is not supported"),
        (config_json(hidden_act="gelu"), "has hidden_act 'gelu'"),
        (config_json(num_attention_heads=5), "hidden_size is 64; use a multiple of its 5 heads"),
        (config_json(num_key_value_heads=3), "num_key_value_heads is 3; use a divisor"),
        (config_json(hidden_size="64"), "hidden_size is '64'; expected int"),
        (config_json(num_hidden_layers=0), "num_hidden_layers is 0; expected int >= 1"),
        (
            config_json(vision_config=config_json()["vision_config"] | {"out_hidden_size": 32}),
            "out_hidden_size is 32; use the language model's hidden_size 64",
        ),
        (
            config_json(vision_config=config_json()["vision_config"] | {"window_size": 14}),
            "window_size is 14; use at least",
        ),
        (
            config_json(vision_config=config_json()["vision_config"] | {"num_heads": 8}),
            "num_heads is 8; use one that makes the head width a multiple of 4",
        ),
    ],
)
def test_other_models_are_refused(values, words):
    with pytest.raises(UserError, match=words) as e:
        mllm_from_json(values, "model/config.json")
    assert str(e.value).startswith("model/config.json")


def test_size_of_the_7b_model():
    """Also checks that flax keeps each parameter's axes, as in test_step1x_edit.py."""
    _, params = abstract_mllm(MLLMConfig())
    leaves = flatten_params(params)
    assert sum(x.size for x in leaves.values()) == PARAMETERS
    assert {str(x.dtype) for x in leaves.values()} == {"bfloat16"}
    for path, leaf in leaves.items():
        axes = leaf.get_metadata()["out_sharding"]
        assert len(axes) == leaf.ndim, path
        assert (axes[0] == "layers") == (".blocks." in path or ".layers." in path), path


@pytest.mark.torch
def test_tensors_of_the_7b_model_match_transformers():
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = MLLMConfig()
    skip = {"rope_theta", "mrope_section"}
    text, vision = (
        {k: v for k, v in dataclasses.asdict(part).items() if k not in skip}
        for part in (config.language, config.vision)
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=text | {"rope_parameters": {"mrope_section": [16, 24, 24]}},
                vision_config=vision,
            )
        )
    theirs = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    assert theirs.pop("lm_head.weight") == (152064, 3584)
    assert sum(map(np.prod, theirs.values())) == PARAMETERS
    ours = {name: entry.shape for name, entry in mllm_table(config, newer=True).items()}
    assert ours == theirs


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Returns the folder of a transformers model with random weights, and the model."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 600, "hidden_size": 96, "intermediate_size": 160,
            "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 5, "hidden_size": 64, "intermediate_size": 112, "num_heads": 4,
            "out_hidden_size": 96, "fullatt_block_indexes": [1, 4],
        },
        image_token_id=590, video_token_id=591, vision_start_token_id=588, vision_end_token_id=589,
    )  # fmt: skip
    torch.manual_seed(3)
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.3)
            else:  # every part of the model then affects the output
                parameter.normal_(0, 1 if "embed" in name else parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("qwen")
    model.save_pretrained(folder)
    return folder, model.model


@pytest.mark.torch
def test_every_layer_against_transformers(reference):
    """Tolerance: float32 rounding through 9 blocks, 1e-4 of the largest value."""
    import torch

    folder, theirs = reference
    model = load_mllm(folder)
    config = model.config
    values, ids = examples(config, GRIDS)
    length = max(map(len, ids))
    padded = torch.tensor([[*prompt, *[0] * (length - len(prompt))] for prompt in ids])
    lengths = torch.tensor(list(map(len, ids)))
    blocks, layers = [], []
    hooks = [b.register_forward_hook(lambda *a: blocks.append(a[2])) for b in theirs.visual.blocks]
    hooks += [
        layer.register_forward_hook(lambda *a: layers.append(a[2]))
        for layer in theirs.language_model.layers
    ]
    with torch.inference_mode():
        want = theirs(
            input_ids=padded,
            attention_mask=(torch.arange(length) < lengths[:, None]).long(),
            mm_token_type_ids=(padded == 590).int(),
            pixel_values=torch.from_numpy(np.concatenate(values)),
            image_grid_thw=torch.tensor(GRIDS),
            use_cache=False,
        ).last_hidden_state.numpy()
        tokens = theirs.visual(
            torch.from_numpy(np.concatenate(values)), torch.tensor(GRIDS)
        ).pooler_output.numpy()
    for hook in hooks:
        hook.remove()

    inputs = pictures, prompts = batch(config, values, ids, GRIDS, 200, 120)
    our_tokens = run_vision(model.visual, pictures)
    our_blocks = nnx.jit(VisionTower.block_outputs)(model.visual, pictures)
    embedded = nnx.jit(MLLM.embed)(model, *inputs)
    our_layers = nnx.jit(LanguageModel.layer_outputs)(
        model.language_model, embedded, prompts.positions
    )
    got = run(model, *inputs)

    errors = {}

    def compare(name, ours, theirs):
        error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
        errors[name] = max(errors.get(name, 0.0), float(error))

    sizes = [len(value) for value in values]
    starts = np.cumsum([0, *sizes])
    assert (len(blocks), len(layers)) == (10, 4)  # the tower ran twice
    for i, (start, size, prompt) in enumerate(zip(starts, sizes, ids, strict=False)):
        for j, block in enumerate(blocks[:5]):
            compare(f"block {j}", our_blocks[j, i, :size], block.numpy()[start : start + size])
        places = picture_layout(GRIDS[i], config.vision).window_index
        their_tokens = tokens[start // 4 : (start + size) // 4]
        compare("tokens", np.asarray(our_tokens)[i, places], their_tokens)
        for j, layer in enumerate(layers):
            compare(f"layer {j}", our_layers[j, i, : len(prompt)], layer.numpy()[i, : len(prompt)])
        compare("last hidden state", got[i, : len(prompt)], want[i, : len(prompt)])
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert len(errors) == 11
    assert max(errors.values()) < 1e-4
