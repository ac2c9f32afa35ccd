import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig, TransformersEncoder
from step1x_jax.conditioning.prompt import Prompt, load_tokenizer
from step1x_jax.errors import UserError
from tests.conditioning.small_qwen import HIDDEN, make_folder

LENGTH = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch", reason="needs the extra [torch]")
    return make_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def encoder(folder):
    return TransformersEncoder(config(folder))


def config(folder, **changes) -> EncoderConfig:
    values = {"path": str(folder), "min_pixels": 4 * 28 * 28, "text_length": LENGTH}
    return EncoderConfig(**(values | {"dtype": "float32"} | changes))


def picture(width, height, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.torch
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
        np.testing.assert_allclose(together[i], alone[0], atol=2e-5)


@pytest.mark.torch
def test_embeddings_are_the_norms_output_behind_the_prefix(encoder, folder):
    """Against the library's own top-level model, with its own logits path and position ids."""
    import torch
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
    np.testing.assert_allclose(embeddings[0, : len(states)], states.numpy(), atol=2e-5)
    assert not embeddings[0, len(states) :].any()


@pytest.mark.torch
def test_long_texts_are_cut_with_a_warning(encoder, folder, caplog):
    image, text = picture(56, 56), "long " * 200
    cut, lengths = encoder.encode([image], [text])
    assert lengths == [LENGTH]
    assert sum("cut to text_length" in r.message for r in caplog.records) == 1
    whole, _ = TransformersEncoder(config(folder, text_length=2000)).encode([image], [text])
    np.testing.assert_allclose(cut[0], whole[0, :LENGTH], atol=2e-5)


@pytest.mark.torch
def test_bfloat16_is_near_float32(encoder, folder):
    exact, _ = encoder.encode([picture(56, 56)], ["add a hat"])
    rough, _ = TransformersEncoder(config(folder, dtype="bfloat16")).encode(
        [picture(56, 56)], ["add a hat"]
    )
    assert rough.dtype == jnp.bfloat16
    # 8 bits of mantissa through two layers, outputs up to 4
    np.testing.assert_allclose(rough.astype(np.float32), exact, atol=0.1)


@pytest.mark.torch
def test_pixel_limits_come_from_the_config(folder):
    lengths = [
        TransformersEncoder(config(folder, min_pixels=m, max_pixels=m)).encode(
            [picture(200, 200)], [""]
        )[1][0]
        for m in (4 * 28 * 28, 16 * 28 * 28)
    ]
    assert lengths[1] - lengths[0] == 12  # tokens of 28 x 28 pixels


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config\.json"):
        TransformersEncoder(EncoderConfig(path=str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        TransformersEncoder(EncoderConfig(path=str(tmp_path)))


def test_missing_torch_is_said(tmp_path, monkeypatch):
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs PyTorch"):
        TransformersEncoder(EncoderConfig(path=str(tmp_path)))


@pytest.mark.torch
def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    truncated = shutil.copytree(folder, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersEncoder(config(truncated))

    other = shutil.copytree(folder, tmp_path / "other")
    values = json.loads((other / "config.json").read_text())
    values["text_config"]["num_hidden_layers"] += 1
    values["text_config"].pop("layer_types", None)
    (other / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="do not fit its config"):
        TransformersEncoder(config(other))


@pytest.mark.parametrize(
    "changes",
    [{"quoting": "sane"}, {"dtype": "float64"}, {"text_length": 0}, {"min_pixels": 10**9}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        EncoderConfig(**changes).validate()


@pytest.mark.torch
def test_a_picture_that_leaves_no_room_for_the_instruction_is_refused(folder):
    encoder = TransformersEncoder(config(folder, text_length=10))
    with pytest.raises(UserError, match=r"no instruction fits: .* of text_length=10"):
        encoder.encode([picture(200, 200)], ["make it night"])
