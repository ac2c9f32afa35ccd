import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from safetensors.numpy import load_file

import step1x_jax
from step1x_jax.conditioning.encoder import EncoderConfig, load_encoder
from step1x_jax.conditioning.prompt import (
    CHAT_AFTER_INSTRUCTION,
    CHAT_BEFORE_IMAGE,
    CHAT_START,
    Prompt,
)
from step1x_jax.conditioning.tokenizer import load_tokenizer
from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.quickstart import small_encoder

SHIPPED = epath.Path(step1x_jax.__file__).parent / "assets" / "quickstart" / "encoder"
PHRASINGS = [
    text for wordings in PLAIN_TEMPLATES.values() for text in wordings["en"] + wordings["cn"]
]


@pytest.fixture(scope="module")
def tokenize():
    return load_tokenizer(SHIPPED)


def test_shipped_tokenizer_is_the_one_the_command_makes(tokenize):
    made = small_encoder.train_tokenizer()
    shipped = json.loads((SHIPPED / "tokenizer.json").read_text())
    assert made.get_vocab_size() == len(shipped["model"]["vocab"]) + len(
        small_encoder.SPECIAL_TOKENS
    )
    for text in [*PHRASINGS, CHAT_BEFORE_IMAGE, CHAT_AFTER_INSTRUCTION, "an unheard-of word 猫"]:
        assert tokenize(text) == made.encode(text, add_special_tokens=False).ids
        assert made.decode(tokenize(text), skip_special_tokens=False) == text


def test_tokens_are_qwens_in_kind(tokenize):
    assert tokenize("!") == [0]  # the first byte, no special token
    ids = [tokenize(name) for name in small_encoder.SPECIAL_TOKENS]
    assert all(len(i) == 1 for i in ids)
    assert [i[0] for i in ids] == list(range(ids[0][0], ids[0][0] + len(ids)))
    assert tokenize("it 1234")[-4:] == [i for digit in "1234" for i in tokenize(digit)]


def test_the_prompt_is_cut_behind_its_prefix(tokenize):
    before, colon, after = (
        tokenize(text)
        for text in (CHAT_START[:-1], ":", CHAT_BEFORE_IMAGE.removeprefix(CHAT_START))
    )
    assert tokenize(CHAT_BEFORE_IMAGE) == before + colon + after
    assert Prompt(tokenize).dropped == len(before)


def test_prompts_are_short(tokenize):
    prompt = Prompt(tokenize)
    kept = [len(prompt.ids(text, 25)) - prompt.dropped for text in PHRASINGS]
    assert max(kept) - 25 < 30
    assert np.mean(kept) < 48


def test_size_and_config(tokenize):
    assert sum(path.stat().length for path in SHIPPED.iterdir()) < 2e6
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert [config["image_token_id"]] == tokenize("<|image_pad|>")
    assert [config["vision_start_token_id"]] == tokenize("<|vision_start|>")
    pictures = json.loads((SHIPPED / "preprocessor_config.json").read_text())
    assert pictures["min_pixels"] == 4 * 28 * 28


def test_random_weights_have_the_promised_scales():
    generator = np.random.default_rng(0)
    scales = {
        "layers.0.self_attn.q_proj.weight": 2.0,
        "layers.0.self_attn.v_proj.weight": 1.0,
        "layers.0.mlp.down_proj.weight": 0.7,
        "merger.mlp.2.weight": 0.1,
    }
    for name, scale in scales.items():
        values = small_encoder.random_weight(name, (256, 400), generator)
        # 102400 draws: the deviation is known to 0.2 %, so 1 % is five of its own deviations.
        np.testing.assert_allclose(values.std() * 20, scale, rtol=0.01)
    assert (small_encoder.random_weight("norm.weight", (5,), generator) == 1).all()
    assert (small_encoder.random_weight("q_proj.bias", (5,), generator) == 0).all()


def test_shipped_weights_are_the_ones_the_command_makes(tmp_path):
    small_encoder.write_encoder(tmp_path / "encoder")
    made, shipped = (load_file(f / "model.safetensors") for f in (tmp_path / "encoder", SHIPPED))
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "encoder" / name).read_text() == (SHIPPED / name).read_text()
    assert made.keys() == shipped.keys()
    for name, value in made.items():
        np.testing.assert_array_equal(value.view(np.uint16), shipped[name].view(np.uint16), name)


@pytest.mark.slow
def test_hidden_states_tell_kinds_apart():
    """A linear classifier on the mean hidden state predicts the kind for new pictures."""
    config = EncoderConfig(
        path=str(SHIPPED), min_pixels=small_encoder.MIN_PIXELS, text_length=64, dtype="float32"
    )
    encoder = load_encoder(config)
    generator = np.random.default_rng(0)
    pictures = [  # eight pictures of smooth colours
        Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((128, 128))
        for _ in range(8)
    ]
    texts = [
        text for words in PLAIN_TEMPLATES.values() for text in words["en"][:2] + words["cn"][:1]
    ]
    labels = np.repeat(np.arange(len(PLAIN_TEMPLATES)), 3)
    means = []
    for picture in pictures:
        states, lengths = encoder.encode([picture] * len(texts), texts)
        assert lengths.max() < 64  # nothing was cut
        means.append(np.asarray(states).sum(axis=1) / lengths[:, None])
    features = np.stack(means)  # pictures, texts, C
    # The states also depend on the picture; otherwise editing could not use it.
    assert np.abs(features[0] - features[1]).max() > 0.01

    fitted, new = features[:5].reshape(-1, small_encoder.HIDDEN), features[5:]
    mean, truth = fitted.mean(axis=0), np.eye(len(PLAIN_TEMPLATES))[np.tile(labels, 5)]
    centred = fitted - mean
    ridge = 1e-3 * np.trace(centred.T @ centred) / small_encoder.HIDDEN
    weights = np.linalg.solve(
        centred.T @ centred + ridge * np.eye(small_encoder.HIDDEN), centred.T @ (truth - 0.1)
    )
    right = ((new - mean) @ weights).argmax(axis=-1) == labels
    assert right.mean() > 0.95  # chance is 0.1
