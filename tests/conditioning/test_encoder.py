import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig, load_encoder
from step1x_jax.conditioning.processor import Processor
from step1x_jax.conditioning.prompt import Prompt
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from tests.conditioning.small_qwen import HIDDEN, make_folder

LENGTH = 120
BOTH = ["jax", pytest.param("transformers", marks=pytest.mark.torch)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module", params=BOTH)
def encoder(folder, request):
    return load(folder, request.param)


def load(folder, implementation="jax", mesh=None, **changes):
    if implementation == "transformers":
        pytest.importorskip("torch", reason="needs the extra [torch]")
    return load_encoder(config(folder, **changes), implementation, mesh)


def config(folder, **changes) -> EncoderConfig:
    values = {"path": str(folder), "min_pixels": 4 * 28 * 28, "text_length": LENGTH}
    return EncoderConfig(**(values | {"dtype": "float32"} | changes))


def picture(width, height, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_a_batch_gives_what_its_examples_give_alone(encoder):
    images = [picture(64, 96), picture(128, 48, 1), picture(64, 96), picture(56, 56, 2)]
    texts = ["", 'write "!!!" on it!', "!", "把天空换成日落，保持其他一切不变"]
    together, lengths = encoder.encode(images, texts)
    assert together.shape == (4, LENGTH, HIDDEN)
    assert len(set(lengths)) == 4
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        alone, length = encoder.encode([image], [text])
        assert length[0] == lengths[i]
        # float32 sums in another order: rounding of outputs around 1
        np.testing.assert_allclose(together[i], alone[0], atol=3e-5)


@pytest.mark.torch
def test_embeddings_are_the_norms_output_behind_the_prefix(encoder, folder):
    """Against the library's own top-level model, with its own logits path and position ids."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    image, text = picture(84, 112), "make it night"  # multiples of 28: not scaled before
    vision = Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=10**6)([image], return_tensors="pt")
    prompt = Prompt(load_tokenizer(folder))
    ids = torch.tensor([prompt.ids(text, 3 * 4)])
    with torch.no_grad():
        states = model(
            input_ids=ids,
            mm_token_type_ids=(ids == prompt.image_id).int(),
            output_hidden_states=True,
            **vision,
        ).hidden_states[-1][0, prompt.dropped :]
    embeddings, lengths = encoder.encode([image], [text])
    assert lengths == [len(states)]
    np.testing.assert_allclose(embeddings[0, : len(states)], states.numpy(), atol=3e-5)
    assert not embeddings[0, len(states) :].any()


@pytest.mark.torch
def test_both_implementations_write_the_same(folder):
    """Pictures of several shapes, both languages; relative to the largest value, as in golden/."""
    images = [picture(w, h, w) for w, h in ((64, 96), (200, 60), (112, 112), (56, 300), (333, 181))]
    texts = ["make it night", "", "把“北京”改成 'Winter'", "emoji 😀 and עברית", "it's !!! " * 4]
    (ours, lengths), (theirs, their_lengths) = (
        load(folder, name).encode(images, texts) for name in ("jax", "transformers")
    )
    np.testing.assert_array_equal(lengths, their_lengths)
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_a_mesh_changes_nothing_and_splits_the_parameters(folder):
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    images, texts = [picture(64, 96), picture(128, 48, 1), picture(56, 56)], ["", "a cat", "x" * 9]
    alone, lengths = load(folder).encode(images, texts)
    encoder = load(folder, mesh=mesh)
    split, split_lengths = encoder.encode(images, texts)
    np.testing.assert_array_equal(lengths, split_lengths)
    np.testing.assert_allclose(split, alone, atol=3e-5)  # sums in another order
    kernel = encoder._model._params["language_model"]["layers"]["mlp"]["gate_proj"]["kernel"][...]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, HIDDEN // 4, 48)


@pytest.mark.slow
def test_few_programs_serve_pictures_of_all_shapes(folder):
    """The host makes every grid the same size: one program for 50 shapes of picture."""
    encoder = load(folder, min_pixels=40 * 28 * 28, max_pixels=80 * 28 * 28, text_length=200)
    rng = np.random.default_rng(0)
    for _ in range(50):
        w, h = rng.integers(60, 400, 2)
        encoder.encode([picture(w, h)], ["make it night"])
    assert encoder._model._run._cache_size() <= 2


def test_a_picture_given_twice_is_read_once(folder, monkeypatch):
    encoder, read = load(folder), []
    monkeypatch.setattr(
        Processor, "__call__", lambda self, image, call=Processor.__call__: (
            read.append(image), call(self, image)
        )[1],
    )  # fmt: skip
    image, other = picture(56, 56), picture(56, 84)
    encoder.encode([image, other, image, other], ["a", "b", "", ""])
    assert len(read) == 2


def test_long_texts_are_cut_with_a_warning(encoder, folder, caplog):
    image, text = picture(56, 56), "long " * 200
    cut, lengths = encoder.encode([image], [text])
    assert lengths == [LENGTH]
    assert sum("cut to text_length" in r.message for r in caplog.records) == 1
    whole, _ = load(folder, text_length=2000).encode([image], [text])
    np.testing.assert_allclose(cut[0], whole[0, :LENGTH], atol=3e-5)


@pytest.mark.parametrize("implementation", BOTH)
def test_bfloat16_is_near_float32(folder, implementation):
    image, text = [picture(56, 56)], ["add a hat"]
    exact, _ = load(folder).encode(image, text)
    rough, _ = load(folder, implementation, dtype="bfloat16").encode(image, text)
    assert rough.dtype == jnp.bfloat16
    # 8 bits of mantissa through two layers, outputs up to 4
    np.testing.assert_allclose(rough.astype(np.float32), exact, atol=0.15)


def test_pixel_limits_come_from_the_config(folder):
    lengths = [
        load(folder, min_pixels=m, max_pixels=m).encode([picture(200, 200)], [""])[1][0]
        for m in (4 * 28 * 28, 16 * 28 * 28)
    ]
    assert lengths[1] - lengths[0] == 12  # tokens of 28 x 28 pixels


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config\.json"):
        load_encoder(EncoderConfig(path=str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        load_encoder(EncoderConfig(path=str(tmp_path)))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_encoder(EncoderConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match="use jax or transformers"):
        load_encoder(EncoderConfig(path=str(tmp_path)), "torch")


def test_missing_torch_is_said(tmp_path, monkeypatch):
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs PyTorch"):
        load_encoder(EncoderConfig(path=str(tmp_path)), "transformers")


@pytest.mark.parametrize("implementation", BOTH)
def test_weights_that_do_not_fit_are_refused(folder, tmp_path, implementation):
    truncated = shutil.copytree(folder, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot be loaded|is damaged"):
        load(truncated, implementation)

    other = shutil.copytree(folder, tmp_path / "other")
    values = json.loads((other / "config.json").read_text())
    values["text_config"]["num_hidden_layers"] += 1
    (other / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"do not fit its config|layers\.2\."):
        load(other, implementation)


@pytest.mark.parametrize(
    "changes",
    [{"quoting": "sane"}, {"dtype": "float64"}, {"text_length": 0}, {"min_pixels": 10**9}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        EncoderConfig(**changes).validate()


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (9, 4000)])
def test_a_picture_too_long_and_thin_is_refused(encoder, size):
    with pytest.raises(UserError, match=rf"{size[0]}x{size[1]} pixels cannot be read .* crop it"):
        encoder.encode([picture(*size)], ["make it night"])


def test_instructions_of_all_kinds_are_read(encoder):
    """Long, empty, emoji, right to left, special tokens: as golden/prompts.json shows."""
    texts = ["x" * 5000, "", "😀 עברית", "Turn <|im_end|> into text", "\n\t "]
    states, lengths = encoder.encode([picture(56, 56)] * len(texts), texts)
    assert np.isfinite(np.asarray(states)).all()
    assert lengths[0] == LENGTH
    assert lengths[1] == lengths.min()
    for bad, reason in (("a <|image_pad|>", "placeholder of pictures"), ("\ud83d", "Unicode")):
        with pytest.raises(UserError, match=reason):
            encoder.encode([picture(56, 56)], [bad])


def test_a_model_and_a_tokenizer_of_two_folders_are_refused(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    values = json.loads((other / "config.json").read_text()) | {"image_token_id": 5}
    (other / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"the picture id .* and config\.json 5"):
        load(other)


def test_a_picture_that_leaves_no_room_for_the_instruction_is_refused(folder):
    encoder = load(folder, text_length=10)
    with pytest.raises(UserError, match=r"no instruction fits: .* of text_length=10"):
        encoder.encode([picture(200, 200)], ["make it night"])
