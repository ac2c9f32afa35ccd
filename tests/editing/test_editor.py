"""The editor with a tiny random model, a tiny autoencoder and a stand-in for the language model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.convert.official import save_autoencoder, save_model
from step1x_jax.editing import editor as editor_module
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.loading import Parts, editor_json, load_parts
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, tiny
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.sampling.config import SamplingConfig

AUTOENCODER = AutoencoderConfig(ch=4, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=2)
SAMPLING = SamplingConfig(size=64, num_steps=3, guidance=2.0, shift=1.5)


class Words:
    """Embeds an instruction as its length, a picture as its mean colour."""

    def __init__(self):
        self.seen = []

    def encode(self, images, instructions):
        self.seen.append(([image.size for image in images], list(instructions)))
        text = np.zeros((len(images), 8, 24), np.float32)
        for row, image, instruction in zip(text, images, instructions, strict=True):
            row[0], row[1] = len(instruction), np.asarray(image).mean() / 255
        return text, np.full(len(images), 2, np.int32)


def random_model(version="v1.1"):
    config = dataclasses.replace(tiny(), version=version)
    graph, shapes = abstract_model(config)
    rng = np.random.default_rng(0)
    return nnx.merge(
        graph, jax.tree.map(lambda x: jnp.float32(0.1 * rng.normal(size=x.shape)), shapes)
    )


@pytest.fixture(scope="module")
def editor():
    autoencoder = Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))
    return Editor(random_model(), autoencoder, Words(), SAMPLING)


def picture(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def test_the_result_has_the_size_of_the_source(editor):
    (edited,) = editor.edit([picture((90, 45))], ["make it night"])
    assert edited.size == (90, 45)
    sizes, instructions = editor.encoder.seen[-1]
    assert sizes == [(80, 32)] * 2  # the language model sees the resized picture
    assert instructions == ["make it night", ""]  # condition first, then the empty instruction


def test_the_seed_and_the_instruction_decide(editor):
    source = picture((64, 64))
    pixels = [
        np.asarray(editor.edit([source], [instruction], seed=seed)[0])
        for instruction, seed in (("night", 0), ("night", 0), ("night", 1), ("a red ball", 0))
    ]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert (pixels[0] != pixels[2]).any()
    assert (pixels[0] != pixels[3]).any()


def test_a_batch_equals_single_edits_and_the_loop_the_program(editor):
    sources = [picture((64, 64), seed) for seed in (1, 2)]
    words = ["fog", "a white frame"]
    batch = editor.edit(sources, words, seed=7)
    shown = []
    for i in range(2):
        (alone,) = editor.edit(
            [sources[i]], [words[i]], seed=7 + i, show=lambda step, x: shown.append(step)
        )
        # float32 rounding may tip a pixel over a rounding edge
        difference = np.abs(np.int32(batch[i]) - np.int32(alone))
        assert difference.max() <= 1
    assert shown == [1, 2, 3] * 2


def test_an_empty_instruction_is_legal(editor):
    assert editor.edit([picture((64, 64))], [""])[0].size == (64, 64)


def test_a_folder_of_parts_gives_back_model_and_defaults(tmp_path):
    encoder = EncoderConfig(path="", min_pixels=3136, max_pixels=12544, text_length=8)
    save_model(
        tmp_path / "transformer" / "weights.safetensors",
        random_model(),
        json_fields=editor_json(Parts(random_model(), SAMPLING, tmp_path, encoder)),
    )
    save_autoencoder(
        tmp_path / "autoencoder" / "weights.safetensors",
        Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)),
    )
    parts = load_parts(str(tmp_path))
    assert parts.sampling == SAMPLING
    assert parts.autoencoder == tmp_path / "autoencoder"
    assert parts.encoder == dataclasses.replace(encoder, path=str(tmp_path / "encoder"))
    for ours, want in zip(
        jax.tree.leaves(nnx.state(parts.model)),
        jax.tree.leaves(nnx.state(random_model())),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, want)


def test_the_releases_folder_is_recognised(tmp_path):
    """Names of the release, but small: the error says that the sizes differ."""
    save_model(tmp_path / "step1x-edit-v1p1-official.safetensors", random_model())
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"step1x-edit-v1p1-official\.safetensors does not fit"):
        load_parts(str(tmp_path))


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no model: give a run directory"):
        load_parts(str(tmp_path))


@pytest.mark.parametrize(
    ("version", "kernel", "truncate"), [("v1.0", "BICUBIC", 1.0), ("v1.1", "LANCZOS", 0.93)]
)
def test_each_version_has_its_filter_and_truncation(monkeypatch, version, kernel, truncate):
    """The published pair: the editor asks Pillow for one and the sampler for the other."""
    seen = []

    def sample(model, conditions, noise, times, guidance):
        seen.append((guidance.truncate, guidance.scale, float(times[1])))
        return noise

    monkeypatch.setattr(editor_module, "sample", sample)
    made = Editor(
        random_model(version), Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)), Words(), SAMPLING
    )
    source = picture((90, 45))
    wanted = np.asarray(source.resize((80, 32), getattr(Image.Resampling, kernel)))
    np.testing.assert_array_equal(np.asarray(made.resize(source)), wanted)
    made.edit([source], ["fog"])
    # the run's shift of 1.5 at 2/3 of the way: 1.5 t / (1 + 0.5 t)
    assert seen == [(truncate, 2.0, pytest.approx(0.75))]


def test_a_weight_file_is_a_model_with_its_companions_beside_it(tmp_path):
    encoder = EncoderConfig(path="", min_pixels=3136)
    fields = editor_json(Parts(random_model(), SAMPLING, tmp_path, encoder))
    save_model(tmp_path / "mine.safetensors", random_model(), json_fields=fields)
    parts = load_parts(str(tmp_path / "mine.safetensors"))
    assert (parts.sampling, parts.encoder.min_pixels) == (SAMPLING, 3136)
    assert parts.autoencoder == tmp_path / "vae.safetensors"


def test_a_path_is_no_picture(editor):
    with pytest.raises(UserError, match="a picture is a str"):
        editor.edit(["photo.jpg"], ["night"])
