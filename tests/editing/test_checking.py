"""What launch.edit --check finds: nothing in what is right, and one line for each thing wrong."""

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image
from safetensors.numpy import load_file, save_file

from step1x_jax.conditioning import prompt
from step1x_jax.editing import checking, published
from step1x_jax.editing.checking import check_weights, sha256_of
from step1x_jax.editing.loading import QUICKSTART
from step1x_jax.editing.published import (
    DIFFERS,
    NOT_COMPARED,
    NOTED,
    OK,
    check_prompts,
    check_rules,
    read_published,
)
from step1x_jax.errors import UserError
from step1x_jax.models.config import ModelConfig
from step1x_jax.weights.formats import FORMATS
from step1x_jax.weights.open import Weights, official_shapes
from tests.conditioning.small_qwen import small_tokenizer
from tests.conditioning.test_prompt import GOLDEN, _qwen_tokenizer

TESTS = Path(__file__).parents[1]
PUBLISHED = read_published()


def by_name(findings):
    result = {finding.name: finding for finding in findings}
    assert all(finding.what for finding in result.values())
    return result


def wrong(findings):
    return {finding.name: finding.what for finding in findings if finding.result == DIFFERS}


@pytest.fixture
def folder(tmp_path):
    """The quickstart's model and autoencoder, without the language model."""
    copy = tmp_path / "model"
    shutil.copytree(QUICKSTART, copy)
    shutil.rmtree(copy / "encoder")
    return copy


@pytest.mark.slow
def test_nothing_differs_in_the_quickstart_as_it_ships():
    """All models run; if it was made anew, assets/published.json needs its new sums."""
    found = by_name(check_weights("quickstart"))
    assert wrong(found.values()) == {}
    parts = ("model", "autoencoder", "language model")
    assert all(found[f"{part}: tensors"].result == OK for part in parts)
    assert all(found[f"{part}: released sizes"].result == NOT_COMPARED for part in parts)
    assert found["tokens of pictures in the language model"].result == OK
    assert found["ids of prompts"].result == NOT_COMPARED
    assert "min_pixels 3136" in found["settings of reading"].what
    assert found["autoencoder: there and back"].result == OK
    assert found["language model: tokenizer.json"].result == OK
    assert " s on cpu" in found["time of a step at 128 px"].what


def test_the_sums_of_the_quickstart_are_those_of_its_files():
    for file in PUBLISHED.files:
        path = QUICKSTART.parent / file.of / file.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        assert path.stat().length == file.bytes


def test_the_recorded_cases_are_the_published_ones():
    def vectors(name):
        return json.loads((TESTS / "vectors" / name).read_text())

    sizes = {
        (r["width"], r["height"], r["size_level"]): r["resized"] for r in vectors("resize.json")
    }
    for width, height, level, *size in PUBLISHED.picture_sizes:
        assert sizes[width, height, level] == size
    (times,) = [
        row["timesteps"]
        for row in vectors("schedule.json")
        if (row["num_steps"], row["image_seq_len"]) == (28, 4096)
    ]
    assert PUBLISHED.schedule.times == times
    after = {case["instruction"]: case["ids_from_vision_end"] for case in GOLDEN["cases"]}
    assert PUBLISHED.prompt.after_picture.items() <= after.items()
    recorded = GOLDEN["ids_before_image"]
    assert PUBLISHED.prompt.before_picture == [*recorded[:218], recorded[-1]]
    for width, height, tokens in PUBLISHED.edit_tokens:  # 8 pixels a latent, 2 latents a token
        assert tokens * 16 * 16 == width * height


def test_the_recorded_tokens_of_pictures_follow_from_the_limits():
    """256 to 324 tokens of 28 x 28 pixels: as many as fit, in the shape of the picture."""
    most = 324 * 28 * 28
    for width, height, tokens in PUBLISHED.picture_tokens:
        w, h = (28 * round(side / 28) for side in (width, height))
        columns, rows = w // 28, h // 28
        if w * h > most:  # sqrt(most w / h) pixels wide, rounded down to a multiple of 28
            columns, rows = math.isqrt(most * w // h) // 28, math.isqrt(most * h // w) // 28
        assert tokens == max(256, columns * rows)
        assert tokens <= 324


def test_the_recorded_counts_are_those_of_the_releases():
    """8.29 billion: Qwen2.5-VL-7B with lm_head, which is not read; 24.9 GB: the release's file."""
    counts = PUBLISHED.models
    assert counts["language model"].parameters + 152064 * 3584 == 8_292_166_656
    assert round(2 * counts["v1.1"].parameters / 1e9, 1) == 24.9
    assert counts["v1.0"].parameters == counts["v1.1"].parameters + 1  # connector.scale_factor


class ShapesAlone:
    """A reader of a model that is not here."""

    def __init__(self, shapes):
        self.metadata = {}
        self.shapes = shapes
        self.dtypes = dict.fromkeys(shapes, np.dtype(np.float16))


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_the_released_model_is_accounted_for(version):
    config, kind = ModelConfig(version=version), FORMATS["official"]

    def check(shapes):
        weights = Weights(epath.Path("x"), kind, config, ShapesAlone(shapes), {})
        return by_name(checking._model(PUBLISHED, weights))

    shapes = official_shapes(config)
    found = check(shapes)
    assert wrong(found.values()) == {}
    assert found["model: released sizes"].result == OK
    assert found["model: double_blocks"].what.startswith("tensors 456, parameters 6,456,")
    found = check({name: x for name, x in shapes.items() if name != "img_in.bias"})
    assert "img_in.bias" in wrong(found.values())["model: tensors"]
    assert "816" in found["model: released sizes"].what or version == "v1.1"
    assert found["model: released sizes"].result == DIFFERS
    found = check(shapes | {"more.weight": (2,)})
    assert "more.weight" in wrong(found.values())["model: tensors"]


def test_parts_that_are_missing_are_named_and_the_rest_is_checked(folder, tmp_path):
    found = by_name(check_weights(str(folder)))
    assert wrong(found.values()) == {}
    assert found["language model"].result == NOT_COMPARED
    assert "--text_encoder" in found["language model"].what
    assert "ids of prompts" not in found
    for part in ("model", "autoencoder"):
        assert found[f"{part}: tensors"].result == OK
        assert found[f"{part}: weights.safetensors"].result == OK
        assert found[f"{part}: numbers"].result == OK
    assert found["sizes of pictures"].result == OK
    assert found["time of a step"].result == NOT_COMPARED
    shutil.rmtree(folder / "autoencoder")
    found = by_name(check_weights(str(folder)))
    assert "--vae" in found["autoencoder"].what
    vae = str(QUICKSTART / "autoencoder")
    assert by_name(check_weights(str(folder), vae=vae))["autoencoder: tensors"].result == OK
    with pytest.raises(UserError, match="does not exist"):
        list(check_weights(str(tmp_path / "nowhere")))


def test_damaged_weights_are_told_in_one_line(folder):
    path = folder / "transformer" / "weights.safetensors"
    whole = path.read_bytes()

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    (name, what), = wrong(check_weights(str(folder))).items()  # fmt: skip
    assert name == "model: weights.safetensors"
    assert hashlib.sha256(flipped).hexdigest() in what
    assert f"expected {hashlib.sha256(whole).hexdigest()} (quickstart/transformer)" in what

    path.write_bytes(whole[:-1])
    (name, what), = wrong(check_weights(str(folder))).items()  # fmt: skip
    assert name == "model"
    assert "truncated" in what

    path.write_bytes(whole)
    tensors = load_file(path)
    lacking = {name: x for name, x in tensors.items() if name != "img_in.bias"}
    save_file(lacking, path)
    (name, what), = wrong(check_weights(str(folder))).items()  # fmt: skip
    assert name == "model"
    assert "img_in.bias is missing" in what

    tensors["img_in.bias"][0] = np.nan
    save_file(tensors, path, {"other": "file"})  # whose sum nobody knows
    found = by_name(check_weights(str(folder)))
    assert list(wrong(found.values())) == ["model: numbers"]
    assert "img_in.bias" in found["model: numbers"].what
    assert found["model: weights.safetensors"].result == NOTED


def test_other_rules_are_told(monkeypatch):
    assert [finding.result for finding in check_rules(PUBLISHED)] == [OK] * 3
    monkeypatch.setattr(published, "image_size", lambda w, h, level: (level, level))
    (name, what), = wrong(check_rules(PUBLISHED)).items()  # fmt: skip
    assert name == "sizes of pictures"
    assert "17x23 at size 512: 512x512, expected 432x592" in what or "640x480" in what
    monkeypatch.undo()
    monkeypatch.setattr(published, "MULTIPLE", 32)
    assert list(wrong(check_rules(PUBLISHED))) == ["tokens of pictures in the transformer"]
    monkeypatch.undo()
    right = published.timesteps
    monkeypatch.setattr(published, "timesteps", lambda n, tokens: right(n, tokens, 3.0))
    (name, what), = wrong(check_rules(PUBLISHED)).items()  # fmt: skip
    assert name == "times of 28 steps at 1024 px"
    monkeypatch.setattr(published, "timesteps", lambda n, tokens: right(n - 1, tokens))
    assert "28 times, expected 29" in wrong(check_rules(PUBLISHED)).popitem()[1]


def test_another_tokenizer_is_told():
    tokenizer = small_tokenizer()

    def tokenize(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    finding = check_prompts(PUBLISHED, tokenize, tokenizer.get_vocab_size())
    assert finding.result == NOT_COMPARED
    finding = check_prompts(PUBLISHED, tokenize, 152064)  # but for what config.json says
    assert finding.result == DIFFERS
    assert "expected 217" in finding.what


def test_recorded_ids_are_compared_as_whole_prompts():
    """With a tokenizer that knows the recorded texts alone, those that are read in one piece."""
    whole = {
        text: ids for text, ids in PUBLISHED.prompt.after_picture.items() if "OPEN" not in text
    }
    whole = {text: ids for text, ids in whole.items() if "'" not in text}
    assert len(whole) == 4
    few = dataclasses.replace(
        PUBLISHED, prompt=dataclasses.replace(PUBLISHED.prompt, after_picture=whole)
    )
    before = PUBLISHED.prompt.before_picture
    known = {
        prompt.CHAT_START + prompt.VISION_START: before,
        prompt.CHAT_START.removesuffix(":"): before[:217],
        **{prompt.IMAGE_TOKEN: [151655], prompt.VIDEO_TOKEN: [151656], "“": [1], "”": [2]},
    }
    for text, ids in whole.items():
        known["<|vision_end|>" + text + prompt.CHAT_AFTER_INSTRUCTION] = ids
    assert check_prompts(few, known.__getitem__, 152064).result == OK
    known["<|vision_end|>" + prompt.CHAT_AFTER_INSTRUCTION] = whole[""][:-1]
    finding = check_prompts(few, known.__getitem__, 152064)
    assert finding.what.startswith("1 of 6; ''")


def test_ids_of_prompts_with_the_vocabulary_of_the_release():
    tokenize = _qwen_tokenizer()
    if tokenize is None:
        pytest.skip("Qwen's vocabulary is not here: pip install --no-deps dashscope")
    assert check_prompts(PUBLISHED, tokenize, 152064).result == OK

    def other(text):
        return [9 if i == 13 else i for i in tokenize(text)]  # another full stop

    finding = check_prompts(PUBLISHED, other, 152064)
    assert finding.result == DIFFERS
    assert "9, expected 13" in finding.what


class Quick:
    """Stands for an editor whose first step takes 100 s, to compile, and the others 3 and 2."""

    def __init__(self, off):
        self.sizes, self.now, self._off = [], 0.0, off

    def edit(self, picture, instruction, *, size, steps, on_step):
        assert picture.size == (size, size)
        self.sizes.append(size)
        for seconds in (100, 3, 2)[:steps]:
            self.now += seconds
            on_step(None)

    def encode(self, picture):
        return np.asarray(picture)

    def decode(self, latents):
        return [Image.fromarray(picture // 2 + 64 if self._off else picture) for picture in latents]


@pytest.mark.parametrize("off", [False, True])
def test_steps_are_timed_and_another_autoencoder_is_told(monkeypatch, off):
    editor = Quick(off)
    monkeypatch.setattr(checking.time, "perf_counter", lambda: editor.now)
    found = by_name(checking._edits(editor, 1024))
    assert editor.sizes == [256, 1024]
    for size in editor.sizes:
        assert found[f"time of a step at {size} px"].what.startswith("2 s on cpu")
    wanted = ["autoencoder: there and back"] if off else []
    assert list(wrong(found.values())) == wanted


def test_a_file_is_read_once_and_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "CHUNK", 1000)
    path, told = epath.Path(tmp_path / "file"), []
    path.write_bytes(bytes(range(250)) * 10)
    found = sha256_of(path, lambda *of: told.append(of))
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == [(str(path), n, 2500) for n in (1000, 2000, 2500)]
