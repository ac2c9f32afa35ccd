"""The editor with a tiny random model, a tiny autoencoder and a stand-in for the language model."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.conditioning.encoder import READING, EncoderConfig
from step1x_jax.editing import editor as editor_module
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, tiny
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.sampling.config import SamplingConfig, sampling_to_json
from step1x_jax.weights.load import load_model
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.save import save_autoencoder
from tests.weights.models import save_model

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


def entries(encoder):
    """What a config.json has beside the sizes."""
    return sampling_to_json(SAMPLING) | {name: getattr(encoder, name) for name in READING}


def test_a_folder_of_parts_gives_back_model_and_defaults(tmp_path):
    encoder = EncoderConfig(path="", min_pixels=3136, max_pixels=12544, text_length=8)
    save_model(
        tmp_path / "transformer" / "weights.safetensors",
        random_model(),
        fields=entries(encoder),
    )
    save_autoencoder(
        tmp_path / "autoencoder" / "weights.safetensors",
        Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)),
    )
    weights = open_weights(tmp_path)
    assert sampling_of(weights) == SAMPLING
    assert encoder_of(weights) == encoder
    for ours, want in zip(
        jax.tree.leaves(nnx.state(load_model(weights))),
        jax.tree.leaves(nnx.state(random_model())),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, want)


def test_the_releases_folder_is_recognised(tmp_path):
    """Names of the release, but small: the error says that the sizes differ."""
    save_model(tmp_path / "step1x-edit-v1p1-official.safetensors", random_model())
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"step1x-edit-v1p1-official\.safetensors does not fit"):
        Editor.load(str(tmp_path))


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no model: give a run directory"):
        Editor.load(str(tmp_path))


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
    save_model(tmp_path / "mine.safetensors", random_model(), fields=entries(encoder))
    weights = open_weights(tmp_path / "mine.safetensors")
    assert (sampling_of(weights), encoder_of(weights).min_pixels) == (SAMPLING, 3136)
    with pytest.raises(UserError, match=f"{tmp_path / 'vae.safetensors'} .the autoencoder"):
        Editor.load(str(tmp_path / "mine.safetensors"))


def test_a_path_is_no_picture(editor):
    for path in (["photo.jpg"], "photo.jpg"):
        with pytest.raises(UserError, match="a picture is a str"):
            editor.edit(path, ["night"])


def pixels(edited):
    return [np.asarray(image) for image in edited]


def test_one_picture_and_one_text_may_stand_without_lists(editor):
    source = picture((64, 64))
    want = pixels(editor.edit([source], ["make it night"]))
    for images in (source, [source], (source,), iter([source])):
        for texts in ("make it night", ["make it night"], ("make it night",)):
            if not isinstance(images, Image.Image | list | tuple):
                images = iter([source])
            np.testing.assert_array_equal(pixels(editor.edit(images, texts)), want)
            assert editor.encoder.seen[-1][1] == ["make it night", ""]


P = Image.new("RGB", (64, 64))


@pytest.mark.parametrize(
    ("images", "instructions", "reason"),
    [
        ([P], ["a", "b"], "2 instructions for 1 pictures"),
        (P, ["a", "b"], "2 instructions for 1 pictures"),
        ([P, P], ["a"], "1 instructions for 2 pictures"),
        ([P, P], "ab", "1 instructions for 2 pictures"),
        ([], [], "there is no picture"),
        ([P], [], "0 instructions"),
        ([P], [None], "an instruction is a NoneType"),
        ([P], [b"night"], "an instruction is a bytes"),
        ([P], b"n", "the instructions are a bytes"),
        ([P], None, "the instructions are a NoneType"),
        ([P], {"a": 1}, "the instructions are a dict"),
        (None, ["a"], "the pictures are a NoneType"),
        (np.zeros((1, 64, 64, 3), np.uint8), ["a"], "a picture is a ndarray"),
        ([[P]], ["a"], "a picture is a list"),
        ([P], ["half \ud83d"], "not valid Unicode"),
        ([P, Image.new("RGB", (64, 32))], ["a", "b"], "64x64 and 64x32 pixels are edited at"),
        ([Image.new("F", (64, 64))], ["a"], "picture 0 has more than 8 bits"),
        ([P, Image.new("RGB", (4, 4))], ["a", "b"], "picture 1 is 4x4 pixels"),
        ([Image.new("RGB", (6400, 4))], ["a"], "6400x4"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_work(editor, images, instructions, reason):
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match=reason):
        editor.edit(images, instructions)
    assert len(editor.encoder.seen) == before


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, [0, 1], "1"])
def test_a_wrong_seed_is_refused_before_work(editor, seed):
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match="the seed is"):
        editor.edit([P], ["a"], seed=seed)
    assert len(editor.encoder.seen) == before


def test_seeds_far_apart_give_other_pictures(editor):
    first, second, last = (
        pixels(editor.edit(picture((64, 64)), "fog", seed=seed)) for seed in (0, 2**32, 2**64 - 1)
    )
    assert (first[0] != second[0]).any()
    assert (first[0] != last[0]).any()


def test_pictures_are_taken_as_the_command_reads_them(editor):
    """Turned by EXIF; what is transparent is white. The result is upright, too."""
    upright = picture((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    (want,) = editor.edit(upright, "fog")
    (got,) = editor.edit(Image.open(buffer), "fog")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    assert (got.size, got.mode, got.info) == ((96, 64), "RGB", {})

    hidden = picture((64, 64)).convert("RGBA")
    hidden.putalpha(0)
    (got,) = editor.edit(hidden, "fog")
    (want,) = editor.edit(Image.new("RGB", (64, 64), "white"), "fog")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_results_go_back_with_the_published_filter(monkeypatch, version):
    """Both releases: Pillow's default, BICUBIC, whatever the way in."""
    made = Editor(
        random_model(version), Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)), Words(), SAMPLING
    )
    small = picture((80, 32), 5)
    monkeypatch.setattr(Editor, "decode", lambda self, latents: [small])
    (edited,) = made.edit(picture((90, 45)), "fog")
    np.testing.assert_array_equal(np.asarray(edited), np.asarray(small.resize((90, 45))))


@pytest.mark.parametrize("part", ["model", "autoencoder"])
def test_weights_that_are_not_finite_give_no_picture(part):
    parts = {"model": random_model(), "autoencoder": Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))}
    state = nnx.state(parts[part])
    leaves, tree = jax.tree.flatten(state)
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(jnp.nan)
    nnx.update(parts[part], jax.tree.unflatten(tree, leaves))
    made = Editor(**parts, encoder=Words(), sampling=SAMPLING)
    with pytest.raises(UserError, match="not finite"):
        made.edit(P, "fog")


def test_an_embedding_that_is_not_finite_gives_no_picture(editor):
    class Broken(Words):
        def encode(self, images, instructions):
            text, lengths = super().encode(images, instructions)
            return np.where(text > 0, np.nan, text), lengths

    with pytest.raises(UserError, match=r"the language model .* not finite"):
        dataclasses.replace(editor, encoder=Broken()).edit(P, "fog")


@pytest.mark.parametrize(
    "changes",
    [{"guidance": float("nan")}, {"shift": float("inf")}, {"num_steps": 10**9}, {"size": 10**6}],
)
def test_settings_are_checked_where_they_are_used_too(editor, changes):
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match=next(iter(changes))):
        dataclasses.replace(editor, sampling=dataclasses.replace(SAMPLING, **changes)).edit(P, "x")
    assert len(editor.encoder.seen) == before


def test_an_editor_is_one_line(editor):
    assert repr(editor) == "Editor(v1.1, size=64, steps=3, guidance=2.0)"
