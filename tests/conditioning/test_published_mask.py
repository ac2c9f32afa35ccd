"""The release's attention mask `ids > 0`, which no token "!" (id 0) passes.

published_mask.npz was made with transformers 4.49.0, the release's pin: two cases of
tests/vectors/mllm, some ids set to 0, attention_mask = ids > 0, eager attention in float32.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig, load_encoder
from step1x_jax.conditioning.encoder_jax import load_jax
from step1x_jax.conditioning.encoder_torch import load_torch
from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.conditioning.prompt import Prompt
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.positions import pad_prompts, prompt_positions
from tests.conditioning.small_qwen import make_folder

VECTORS = Path(__file__).parents[1] / "vectors" / "mllm"
GOLDEN = np.load(Path(__file__).parent / "published_mask.npz")
INPUTS = np.load(VECTORS / "case.npz")
CASES = ("0", "4")


@pytest.fixture(scope="module", params=["jax", pytest.param("torch", marks=pytest.mark.torch)])
def model(request):
    if request.param == "jax":
        with jax.default_matmul_precision("highest"):
            yield load_jax(VECTORS / "model", "float32")
    else:
        pytest.importorskip("torch", reason="needs the extra [torch]")
        yield load_torch(VECTORS / "model", "float32")


def case(name):
    picture = PicturePatches(INPUTS[f"{name}/pixel_values"], np.int64(INPUTS[f"{name}/grid_thw"]))
    return picture, GOLDEN[f"{name}/input_ids"].tolist()


@pytest.mark.slow
def test_hidden_states_are_those_of_the_release(model):
    pictures, prompts = zip(*map(case, CASES), strict=True)
    states = np.asarray(model(pictures, prompts, 0))
    for got, name in zip(states, CASES, strict=True):
        want = GOLDEN[f"{name}/last_hidden_state"]
        # as for golden/mllm: 1e-4 of the largest
        np.testing.assert_allclose(got[: len(want)], want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_positions_are_those_of_the_release():
    for name in CASES:
        picture, ids = case(name)
        config = MLLMConfig(image_token_id=int(INPUTS_TOKEN))
        got = prompt_positions(ids, picture.grid, config, unseen_id=0)
        np.testing.assert_array_equal(got, GOLDEN[f"{name}/position_ids"])


# The token that stands once for every merged token of the picture.
INPUTS_TOKEN = np.bincount(GOLDEN["0/input_ids"]).argmax()


def test_without_such_tokens_there_is_no_mask_to_pay_for():
    picture, _ = case("0")
    config = MLLMConfig(image_token_id=int(INPUTS_TOKEN))
    ids = INPUTS["0/input_ids"].tolist()
    assert pad_prompts([ids], [picture.grid], config, 64, unseen_id=0).key_mask is None
    assert pad_prompts([ids], [picture.grid], config, 64).key_mask is None
    masked = pad_prompts([ids, case("0")[1]], [picture.grid] * 2, config, 64, unseen_id=0)
    assert masked.key_mask.sum(1).tolist() == [len(ids), (GOLDEN["0/input_ids"] != 0).sum()]


@pytest.mark.torch
@pytest.mark.parametrize("implementation", ["jax", "transformers"])
def test_an_instruction_with_exclamation_marks_against_the_library(tmp_path, implementation):
    """The installed transformers, which puts the masked tokens themselves at position 0, not 1:
    all other rows are the same."""
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    folder = make_folder(tmp_path / "qwen")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
    image, text = Image.fromarray(pixels), "Wow! Turn it! into night, now!"
    vision = Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=10**6)([image], return_tensors="pt")
    prompt = Prompt(load_tokenizer(folder))
    ids = torch.tensor([prompt.ids(text, 3 * 4)])
    assert (ids == 0).sum() == 3
    with torch.no_grad():
        states = model(
            input_ids=ids,
            attention_mask=(ids > 0).long(),
            mm_token_type_ids=(ids == prompt.image_id).int(),
            output_hidden_states=True,
            **vision,
        ).hidden_states[-1][0, prompt.dropped :]
    config = EncoderConfig(str(folder), min_pixels=4 * 28 * 28, text_length=120, dtype="float32")
    embeddings, lengths = load_encoder(config, implementation).encode([image], [text])
    assert lengths == [len(states)]
    seen = (ids[0, prompt.dropped :] != 0).numpy()
    np.testing.assert_allclose(
        np.asarray(embeddings[0, : len(states)])[seen], states.numpy()[seen], atol=3e-5
    )


def test_under_words_an_exclamation_mark_is_a_token_like_others(tmp_path):
    folder = make_folder(tmp_path / "qwen")
    image = Image.new("RGB", (56, 56), "red")

    def end(quoting, text):  # the last row sees all before it
        config = EncoderConfig(
            str(folder), min_pixels=4 * 28 * 28, text_length=120, quoting=quoting, dtype="float32"
        )
        states, lengths = load_encoder(config).encode([image], [text])
        return np.asarray(states[0, lengths[0] - 1])

    plain = end("published", "night")
    np.testing.assert_allclose(end("published", "!night"), plain, atol=3e-5)  # it is not seen
    assert np.abs(end("words", "!night") - plain).max() > 3e-4  # ten times rounding
    np.testing.assert_allclose(end("words", "night"), plain, atol=3e-5)
