"""The editor with a tiny random model, a tiny autoencoder and a stand-in for the language model."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy.ndimage import distance_transform_edt

from step1x_jax.conditioning.encoder import READING, EncoderConfig
from step1x_jax.editing import editor as editor_module
from step1x_jax.editing.conditioned import Kept
from step1x_jax.editing.editor import Editor
from step1x_jax.editing.masks import feather_width
from step1x_jax.editing.progress import expected
from step1x_jax.editing.settings import encoder_of, sampling_of
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig, tiny
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.sampling.config import SamplingConfig, sampling_to_json
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.noise import noise_from_seed
from step1x_jax.sampling.sampler import sample
from step1x_jax.sampling.schedule import timesteps
from step1x_jax.sampling.step import Conditions
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


@pytest.mark.slow
def test_the_result_has_the_size_of_the_source(editor):
    (edited,) = editor.edit([picture((90, 45))], ["make it night"])
    assert edited.size == (90, 45)
    # the language model sees the resized picture, with each text by itself
    assert editor.encoder.seen[-2:] == [([(80, 32)], ["make it night"]), ([(80, 32)], [""])]


@pytest.mark.slow
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
            [sources[i]], [words[i]], seed=7 + i, on_step=lambda step: shown.append(step.number)
        )
        # float32 rounding may tip a pixel over a rounding edge
        difference = np.abs(np.int32(batch[i]) - np.int32(alone))
        assert difference.max() <= 1
    assert shown == [1, 2, 3] * 2


def random_edits(editor, **settings):
    """The results of two pictures of one size and one of another, two of each."""
    sources = [picture((64, 64), 1), picture((90, 45), 2), picture((64, 64), 3)]
    return editor.edit(sources, ["fog", "night", "a frame"], num_images=2, **settings), sources


def test_text_is_cut_to_what_the_longer_branch_needs(editor, monkeypatch):
    """The release's 640 tokens, of which most edits need half."""

    class Long(Words):
        def encode(self, images, instructions):
            short, lengths = super().encode(images, instructions)
            text = np.zeros((len(images), 640, 24), np.float32)
            text[:, :8] = short
            return text, lengths + [60 + len(instruction) for instruction in instructions]

    lengths = []

    def no_sampling(model, conditions, noise, *_):
        lengths.append((conditions.text.shape[1], conditions.negative_text.shape[1]))
        return noise

    monkeypatch.setattr(editor_module, "sample_with_progress", no_sampling)
    model = random_model()
    model.config = override(model.config, {"text_length": 640})
    editor = dataclasses.replace(editor, model=model, encoder=Long())
    editor.edit(picture((64, 64)), "")
    editor.edit(picture((64, 64)), "fog", negative="a")
    assert lengths == [(64, 64), (128, 128)]


@pytest.mark.slow
def test_mixed_sizes_are_what_each_is_alone(editor):
    """In the order in which they were given, each with its own seed."""
    for seed, first in ((5, [5, 7, 9]), ([9, 2, 2], [9, 2, 2])):
        edited, sources = random_edits(editor, seed=seed)
        assert [image.size for image in edited] == [s.size for s in sources for _ in range(2)]
        for i, instruction in enumerate(["fog", "night", "a frame"]):
            for k in range(2):
                (alone,) = editor.edit(sources[i], instruction, seed=first[i] + k)
                difference = np.int32(edited[2 * i + k]) - np.int32(alone)
                assert np.abs(difference).max() <= 1  # rounding, of batches of 4 and of 1


def test_steps_count_over_all_batches(editor):
    seen = []
    random_edits(editor, on_step=seen.append, steps=2)
    assert [step.number for step in seen] == [1, 2, 3, 4]
    assert {step.total for step in seen} == {4}
    assert [step.results for step in seen] == [(0, 1, 4, 5)] * 2 + [(2, 3)] * 2
    assert all(step.previews is None for step in seen)


def test_settings_are_those_of_the_call(editor):
    """As an editor that has them for defaults, which do not change."""
    source = picture((64, 64))
    changed = {"num_steps": 2, "guidance": 1.5, "size": 96}
    (want,) = dataclasses.replace(editor, sampling=SamplingConfig(**changed, shift=1.5)).edit(
        source, "fog"
    )
    (got,) = editor.edit(source, "fog", steps=2, guidance_scale=1.5, size=96)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    assert editor.sampling == SAMPLING
    for settings in ({"steps": 2}, {"guidance_scale": 1.5}, {"size": 96}):
        (other,) = editor.edit(source, "fog", **settings)
        assert (np.asarray(other) != np.asarray(editor.edit(source, "fog")[0])).any(), settings


def test_the_old_name_of_guidance_scale_is_taken_with_a_warning(editor):
    source = picture((64, 64))
    (want,) = editor.edit(source, "fog", guidance_scale=1.5)
    with pytest.warns(
        DeprecationWarning, match="guidance is now guidance_scale; .* in 0.4"
    ) as seen:
        (got,) = editor.edit(source, "fog", guidance=1.5)
    assert seen[0].filename == __file__  # the caller's line
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    with pytest.raises(TypeError, match="both guidance_scale and guidance, its old name"):
        editor.edit(source, "fog", guidance=1.5, guidance_scale=1.5)


def test_a_negative_takes_the_place_of_the_empty_instruction(editor):
    source = picture((64, 64))
    (edited,) = editor.edit(source, "fog", negative="blurred")
    assert editor.encoder.seen[-1][1] == ["blurred"]
    assert (np.asarray(edited) != np.asarray(editor.edit(source, "fog")[0])).any()
    both = editor.edit([source] * 2, ["fog"] * 2, negative=["", "blurred"], seed=[0, 0])
    assert (np.asarray(both[0]) != np.asarray(both[1])).any()


def test_nothing_is_encoded_twice(editor, monkeypatch):
    """And what was kept gives the same picture to the bit."""
    fresh = dataclasses.replace(editor, encoder=Words())
    encoded = []
    monkeypatch.setattr(
        editor_module, "_encode", lambda *a, f=editor_module._encode: encoded.append(1) or f(*a)
    )
    first, second = picture((64, 64), 4), picture((64, 64), 5)
    (once,) = fresh.edit(first, "fog")
    assert (len(fresh.encoder.seen), len(encoded)) == (2, 1)
    fresh.edit(first.copy(), "night")
    assert (len(fresh.encoder.seen), len(encoded)) == (3, 1)
    fresh.edit(second, "fog")
    assert (len(fresh.encoder.seen), len(encoded)) == (5, 2)
    (again,) = fresh.edit(first, "fog")
    assert (len(fresh.encoder.seen), len(encoded)) == (5, 2)
    np.testing.assert_array_equal(np.asarray(once), np.asarray(again))


def test_what_is_kept_has_an_end():
    kept, made = Kept(2), []
    for key in "abacab":
        kept.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]


def test_previews_show_where_the_steps_lead(editor):
    """The last one, at time 0, is the result; the others are at their times by hand."""
    source, seen, latents = picture((64, 64)), [], []
    decode = Editor.decode

    class Spy(Editor):
        def decode(self, x):
            latents.append(np.asarray(x))
            return decode(self, x)

    spy = Spy(editor.model, editor.autoencoder, editor.encoder, SAMPLING)
    (edited,) = spy.edit(source, "fog", steps=4, on_step=seen.append, previews=2)
    assert [step.previews is not None for step in seen] == [False, True, False, True]
    np.testing.assert_array_equal(np.asarray(seen[3].previews[0]), np.asarray(edited))
    np.testing.assert_allclose(latents[1], latents[2], atol=1e-5)  # after - 0 * velocity
    before, after = np.float32([3.0]), np.float32([2.0])
    # 1 less in a quarter of the way: another quarter leads to 1
    np.testing.assert_allclose(expected(before, after, 0.5, 0.25), [1.0])


def test_what_on_step_raises_ends_the_edit(editor):
    class Enough(Exception):
        pass

    def stop(step):
        seen.append(step.number)
        if step.number == 2:
            raise Enough

    seen = []
    with pytest.raises(Enough):
        editor.edit(picture((64, 64)), "fog", on_step=stop)
    assert seen == [1, 2]
    assert editor.edit(picture((64, 64)), "fog")[0].size == (64, 64)


def test_noise_may_be_given(editor, tmp_path):
    """In the published layout: as an array, or as a file; a row for each result."""
    sources = [picture((64, 64), 1), picture((64, 64), 2)]
    want = editor.edit(sources, ["fog"] * 2, seed=[3, 8])
    noise = jnp.concatenate([noise_from_seed(s, (1, 8, 8, 16)) for s in (3, 8)])
    published = np.asarray(noise).transpose(0, 3, 1, 2)
    np.save(tmp_path / "noise.npy", published)
    for given in (published, str(tmp_path / "noise.npy"), tmp_path / "noise.npy"):
        for got, one in zip(editor.edit(sources, ["fog"] * 2, noise=given), want, strict=True):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(one))


@pytest.mark.parametrize(
    ("output_size", "size"),
    [("input", (90, 45)), ("edited", (80, 32)), ((33, 44), (33, 44)), ([33, 44], (33, 44))],
)
def test_results_have_the_size_that_is_asked_for(editor, output_size, size):
    (edited,) = editor.edit(picture((90, 45)), "fog", output_size=output_size)
    assert edited.size == size


def test_pictures_may_be_files_bytes_and_pixels(editor, tmp_path):
    source = picture((64, 64))
    source.save(tmp_path / "photo.png")
    (want,) = editor.edit(source, "fog")
    data, array = (tmp_path / "photo.png").read_bytes(), np.asarray(source)
    opaque = np.concatenate([array, np.full((64, 64, 1), 255, np.uint8)], -1)
    forms = [str(tmp_path / "photo.png"), tmp_path / "photo.png", data, array, opaque, array[None]]
    for form in forms:
        (got,) = editor.edit(form, "fog")
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    (got,) = editor.edit(array[..., :1], "fog")
    (want,) = editor.edit(Image.fromarray(array[..., 0]), "fog")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.slow
def test_text_alone_makes_a_picture(editor):
    """As the sampler does without reference; the language model sees a black square."""
    (made,) = editor.generate("a cat", size=(48, 32), seed=3, steps=2)
    assert made.size == (48, 32)
    assert editor.encoder.seen[-2:] == [([(1024, 1024)], ["a cat"]), ([(1024, 1024)], [""])]
    black = Image.new("RGB", (1024, 1024))
    (text, lengths), (negative, others) = (Words().encode([black], [x]) for x in ("a cat", ""))
    latents = sample(
        editor.model,
        Conditions(None, text, lengths, negative, others),
        noise_from_seed(3, (1, 4, 6, 16)),
        timesteps(2, 6, SAMPLING.shift),
        Guidance(SAMPLING.guidance, 0.93),
    )
    (want,) = editor.decode(latents)
    assert np.abs(np.int32(made) - np.int32(want)).max() <= 1  # rounding
    assert [x.size for x in editor.generate(["a", "b"], size=32, num_images=2)] == [(32, 32)] * 4


def test_text_alone_is_refused_where_it_cannot_be(editor):
    for size, reason in (((40, 32), "multiples of 16"), ((0, 16), "size is"), ("64", "size is")):
        with pytest.raises(UserError, match=reason):
            editor.generate("a cat", size=size)
    for prompt in ([], 3, [3]):
        with pytest.raises(UserError, match="prompt"):
            editor.generate(prompt)
    old = Editor(random_model("v1.0"), editor.autoencoder, Words(), SAMPLING)
    with pytest.raises(UserError, match=r"v1\.0 makes no pictures from text alone"):
        old.generate("a cat")


def test_a_small_model_says_what_it_knows(editor, caplog):
    small = dataclasses.replace(editor, known_edits=[["Make it night", "改成夜景"], ["Add fog"]])
    for fine in ("make it  night.", "改成夜景", "ADD FOG!"):
        small.edit(picture((64, 64)), fine)
    assert not caplog.messages
    small.edit([picture((64, 64))] * 2, ["Remove the helmet", "Add fog"])
    (message,) = caplog.messages
    assert "knows 2 edits, and 'Remove the helmet' is none" in message
    assert "It knows: Make it night; Add fog." in message
    editor.edit(picture((64, 64)), "Remove the helmet")
    assert len(caplog.messages) == 1


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

    def sample(model, conditions, noise, times, guidance, show, mesh, plan):
        seen.append((guidance.truncate, guidance.scale, float(times[1])))
        return noise

    monkeypatch.setattr(editor_module, "sample_with_progress", sample)
    made = Editor(
        random_model(version), Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0)), Words(), SAMPLING
    )
    source = picture((90, 45))
    wanted = np.asarray(source.resize((80, 32), getattr(Image.Resampling, kernel)))
    given, encode = [], made.encoder.encode
    made.encoder.encode = lambda images, texts: given.append(images[0]) or encode(images, texts)
    made.edit([source], ["fog"])
    for image in given:
        np.testing.assert_array_equal(np.asarray(image), wanted)
    # the run's shift of 1.5 at 2/3 of the way: 1.5 t / (1 + 0.5 t)
    assert seen == [(truncate, 2.0, pytest.approx(0.75))]
    made.edit([source], ["fog"], truncate=0.2)
    assert seen[1] == (0.2, 2.0, pytest.approx(0.75))


def test_a_weight_file_is_a_model_with_its_companions_beside_it(tmp_path):
    encoder = EncoderConfig(path="", min_pixels=3136)
    save_model(tmp_path / "mine.safetensors", random_model(), fields=entries(encoder))
    weights = open_weights(tmp_path / "mine.safetensors")
    assert (sampling_of(weights), encoder_of(weights).min_pixels) == (SAMPLING, 3136)
    with pytest.raises(UserError, match=f"{tmp_path / 'vae.safetensors'} .the autoencoder"):
        Editor.load(str(tmp_path / "mine.safetensors"))


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
        (np.zeros((2, 64, 64, 3), np.uint8), ["a"], "1 instructions for 2 pictures"),
        (np.zeros((64, 64, 3), np.float32), ["a"], r"an array of float32 \[64, 64, 3\]"),
        (np.zeros((64, 64, 2), np.uint8), ["a"], r"an array of uint8 \[64, 64, 2\]"),
        ([[P]], ["a"], "picture 0 is a list; give a PIL image"),
        ("absent.jpg", "a", r"absent\.jpg cannot be read"),
        (b"no picture", "a", "picture 0 is not a readable picture: it is a text file"),
        ([P], ["half \ud83d"], "not valid Unicode"),
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


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        *(({"seed": seed}, "the seed is") for seed in (-1, 2**64, 1.5, True, "1", [-1], [None])),
        ({"seed": [0, 1]}, "2 seeds for 1 pictures"),
        ({"seed": 2**64 - 1, "num_images": 2}, "the seed is"),
        ({"negative": 3}, "negative instructions are a int"),
        ({"negative": ["a", "b"]}, "2 negative instructions for 1 pictures"),
        ({"negative": "half \ud83d"}, "not valid Unicode"),
        ({"steps": 0}, "edit: steps is 0"),
        ({"steps": 2.5}, "edit: steps is 2.5"),
        ({"guidance_scale": float("nan")}, "edit: guidance_scale is nan"),
        ({"size": 10**6}, "edit: size is 1000000"),
        ({"truncate": -1}, "edit: truncate is -1"),
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": True}, "num_images is True"),
        ({"previews": -1}, "previews is -1"),
        ({"output_size": "large"}, "output_size is 'large'"),
        ({"output_size": (0, 5)}, r"output_size is \(0, 5\)"),
        ({"output_size": 64}, "output_size is 64"),
        ({"noise": np.zeros((1, 16, 4, 4), np.float32)}, r"the noise has shape \[1, 16, 4, 4\]"),
        ({"noise": np.zeros((1, 16, 8, 8), np.int32)}, "the noise holds integers"),
        ({"noise": np.full((1, 16, 8, 8), np.inf)}, "the noise has values that are not finite"),
        ({"noise": "absent.npy"}, r"absent\.npy cannot be read"),
    ],
)
def test_wrong_settings_are_refused_before_work(editor, settings, reason):
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match=reason):
        editor.edit([P], ["a"], **settings)
    assert len(editor.encoder.seen) == before


def test_one_noise_is_for_one_size(editor):
    sources = [P, Image.new("RGB", (64, 32))]
    with pytest.raises(UserError, match="pictures that are edited at several sizes"):
        editor.edit(sources, ["a", "b"], noise=np.zeros((2, 16, 8, 8), np.float32))


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


def test_an_editor_says_what_it_is(editor):
    assert repr(editor) == "Editor: v1.1, size 64, 3 steps, guidance 2"


class Full(Words):
    """As a device whose memory is full."""

    def encode(self, images, instructions):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456789 bytes."
        )


def test_a_full_memory_is_one_sentence_and_the_editor_stays_usable(editor):
    full = dataclasses.replace(editor, encoder=Full())
    with pytest.raises(UserError, match=r"full \(it was to hold 123456789 bytes more\): let"):
        full.edit(P, "fog")
    full.encoder.encode = Words().encode
    assert full.edit(P, "fog")[0].size == (64, 64)


def painted(size, box):
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


@pytest.mark.slow
def test_outside_of_a_mask_the_result_is_the_source(editor):
    """Bit for bit beyond the soft edge, at the source's own size; inside it is edited."""
    source = picture((300, 200), 7)
    mask = painted(source.size, (30, 20, 90, 70))
    edge = feather_width(*source.size)
    away = distance_transform_edt(~(np.asarray(mask) > 127)) >= edge
    before = np.asarray(source)
    for given in (mask, np.asarray(mask) > 127):
        (edited,) = editor.edit(source, "fog", mask=given)
        assert edited.size == source.size
        np.testing.assert_array_equal(np.asarray(edited)[away], before[away])
        assert (np.asarray(edited) != before)[np.asarray(mask) > 127].mean() > 0.9
    assert away.mean() > 0.7
    small, all_of_it = editor.edit(
        [source, source], ["fog"] * 2, mask=[mask, Image.new("L", source.size, 255)], seed=[0, 0],
        output_size="edited",
    )  # fmt: skip
    assert small.size == (64, 48)
    assert (np.asarray(small) != np.asarray(all_of_it)).any()
    (free,) = editor.edit(source, "fog", output_size="edited")
    # a mask of everything is none, but for the order of float32 operations
    assert np.abs(np.int32(all_of_it) - np.int32(free)).max() <= 1


def test_the_sampler_keeps_what_is_outside_of_the_mask(editor, monkeypatch):
    seen = []

    def sample(model, conditions, *rest):
        seen.append(np.asarray(conditions.keep))
        return conditions.reference

    monkeypatch.setattr(editor_module, "sample_with_progress", sample)
    sources = [picture((64, 64), i) for i in range(2)]
    mask = painted((64, 64), (17, 8, 24, 17))  # in cells of 8 pixels: column 2, rows 1 and 2
    editor.edit(sources, ["fog"] * 2, mask=[mask, None])
    masked, free = seen
    assert masked.shape == (1, 8, 8, 1)
    assert sorted(map(tuple, np.argwhere(~masked[0, ..., 0]))) == [(1, 2), (2, 2)]
    assert free.shape == ()  # None: nothing is kept


def test_unchanged_parts_stay_if_that_is_wanted(editor, monkeypatch):
    """By an editor whose model copies, but for a square."""
    source = picture((64, 64), 3).resize((128, 128))
    changed = np.asarray(source.resize((64, 64), Image.Resampling.LANCZOS)).copy()
    noisy = np.clip(np.int32(changed) + np.random.default_rng(0).integers(-3, 4, changed.shape),
                    0, 255).astype(np.uint8)  # fmt: skip
    noisy[16:40, 16:40] = 255 - noisy[16:40, 16:40]
    monkeypatch.setattr(Editor, "decode", lambda self, latents: [Image.fromarray(noisy)])
    (loose,) = editor.edit(source, "fog")
    (kept,) = editor.edit(source, "fog", keep_unchanged=True)
    before = np.asarray(source)
    assert (np.asarray(loose) != before)[100:, 100:].mean() > 0.5
    np.testing.assert_array_equal(np.asarray(kept)[100:, 100:], before[100:, 100:])
    np.testing.assert_array_equal(np.asarray(kept)[40:72, 40:72], np.asarray(loose)[40:72, 40:72])
    left = painted((128, 128), (0, 0, 40, 128))
    (both,) = editor.edit(source, "fog", keep_unchanged=True, mask=left)
    np.testing.assert_array_equal(np.asarray(both)[:, 60:], before[:, 60:])


def test_a_drift_is_corrected_if_that_is_wanted(editor, monkeypatch):
    smooth = picture((16, 16), 3).resize((64, 64), Image.Resampling.BICUBIC)
    shifted = Image.fromarray(np.roll(np.asarray(smooth) // 2 + 64, 2, axis=1))
    monkeypatch.setattr(Editor, "decode", lambda self, latents: [shifted])
    before = np.int32(smooth)[8:-8, 8:-8]

    def error(**options):
        (result,) = editor.edit(smooth, "fog", **options)
        return np.abs(np.int32(result)[8:-8, 8:-8] - before).mean()

    assert error() > 10
    brighter = np.clip(np.int32(np.roll(np.asarray(smooth), 2, axis=1)) + 8, 0, 255)
    shifted = Image.fromarray(brighter.astype(np.uint8))
    assert error() > 8
    assert error(align=True) < 1.5  # clipped at white, and a cubic spline


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Image.new("L", (32, 64), 255), "mask 0 is 32x64 pixels, its picture 64x64"),
        (Image.new("L", (64, 64)), "mask 0 has nothing in it"),
        ([P, P], "2 masks for 1 pictures"),
        ("absent.png", r"absent\.png cannot be read"),
        (3, "mask 0 is a int"),
    ],
)
def test_a_wrong_mask_is_refused_before_work(editor, mask, reason):
    before = len(editor.encoder.seen)
    with pytest.raises(UserError, match=reason):
        editor.edit([P], ["a"], mask=mask)
    assert len(editor.encoder.seen) == before


def test_large_pictures_go_through_the_autoencoder_in_strips(editor, monkeypatch):
    """And give the same: equality itself is tests/models/test_autoencoder_tiles.py's."""
    source = picture((64, 64), 2)
    (want,) = editor.edit(source, "fog")
    used = []
    for name in ("_encode_tiled", "_decode_tiled"):
        program = getattr(editor_module, name)
        monkeypatch.setattr(
            editor_module, name, lambda *a, n=name, f=program: used.append(n) or f(*a)
        )
    editor.edit(source, "fog")
    assert used == []
    monkeypatch.setattr(editor_module, "LARGEST_WHOLE_PIXELS", 64 * 64 - 1)
    fresh = dataclasses.replace(editor, encoder=Words())
    (got,) = fresh.edit(source, "fog")
    assert used == ["_encode_tiled", "_decode_tiled"]
    assert np.abs(np.int32(got) - np.int32(want)).max() <= 1
