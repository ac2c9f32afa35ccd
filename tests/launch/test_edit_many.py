"""launch.edit with several pictures, lists, and what was made before; with a tiny random model."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from step1x_jax.editing import recipe as recipe_module
from step1x_jax.editing.recipe import read_recipe
from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import BUILT_IN
from tests.editing.test_editor import picture
from tests.launch.edit_command import Command, alone

NIGHT = "--instruction=make it night"


@pytest.fixture(scope="module")
def command():
    with alone() as module:
        yield Command(module)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "below/c.png")):
        picture((64, 64), i).save(folder / name)
    return folder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def names_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
def test_pictures_and_seeds_are_loaded_for_once(command, photos, tmp_path, capsys):
    out, before = tmp_path / "out", len(command.loaded)
    flags = [f"--image={photos / name}" for name in ("a.png", "b.jpg")]
    assert command(*flags, NIGHT, "--num_images=2", "--seed=5", f"--output={out}/") == 0
    assert len(command.loaded) == before + 1
    assert names_in(out) == ["a-5.png", "a-6.png", "b-5.png", "b-6.png", "report.jsonl"]
    printed = capsys.readouterr()
    assert f"{out}/b-6.png: 64 x 64, 2 steps, seed 6" in printed.out
    assert "what was loaded" in printed.err
    # each as alone: of the seed in its name, whatever was made with it
    for name, image, seed in (("a-5.png", "a.png", 5), ("b-6.png", "b.jpg", 6)):
        (want,) = command.editor.edit(
            str(photos / image), "make it night", seed=seed, size=64, steps=2, guidance_scale=1.2,
            truncate=1.0, on_step=lambda step: None,
        )  # fmt: skip
        np.testing.assert_array_equal(pixels(out / name), np.asarray(want))
    line = command.report(out)["b-6.png"]
    assert (line["image"], line["seed"], line["error"]) == (str(photos / "b.jpg"), 6, None)
    assert line["seconds"] > 0


def test_the_releases_form_of_a_list(command, photos, tmp_path):
    """{picture: instruction}; pictures in folders keep these."""
    (photos / "edits.json").write_text(json.dumps({"a.png": "fog", "below/c.png": "改成夜景"}))
    assert command(f"--edits={photos}/edits.json", f"--output={tmp_path}/out/") == 0
    assert names_in(tmp_path / "out") == ["a-0.png", "below/c-0.png", "report.jsonl"]
    made = read_recipe(tmp_path / "out" / "below" / "c-0.png")
    assert (made.instruction, made.seed, made.steps) == ("改成夜景", "0", 2)


def test_rows_have_settings_of_their_own(command, photos, tmp_path):
    rows = [
        {"image": "a.png", "instruction": "fog", "negative": "blur", "seed": 7, "steps": 1,
         "guidance": 3.5, "output": "first.jpg"},
        {"image": "b.jpg", "output": "deep/second-{seed}.webp"},
    ]  # fmt: skip
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "edits.json").write_text(json.dumps(rows))
    (lists / "edits.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    for ending in ("json", "jsonl"):
        out = tmp_path / ending
        flags = [f"--edits={lists}/edits.{ending}", f"--root={photos}", f"--output={out}/"]
        assert command(*flags, NIGHT, "--negative=rain", "--seed=2") == 0
        assert names_in(out) == ["deep/second-2.webp", "first.jpg", "report.jsonl"]
        found = [read_recipe(out / name) for name in ("first.jpg", "deep/second-2.webp")]
        assert [(r.instruction, r.negative, r.seed, r.steps, r.guidance) for r in found] == [
            ("fog", "blur", "7", 1, 3.5),
            ("make it night", "rain", "2", 2, 1.2),
        ]


def test_all_pictures_of_a_folder(command, photos, tmp_path):
    """Not what lies below, and nothing else."""
    (photos / "notes.txt").write_text("x")
    (photos / ".hidden.png").write_bytes(b"")
    pattern = tmp_path / "out" / "{seed} of {stem}.webp"
    assert command(f"--image={photos}", NIGHT, f"--output={pattern}", "--seed=3") == 0
    assert names_in(tmp_path / "out") == ["3 of a.webp", "3 of b.webp", "report.jsonl"]


def test_an_instruction_for_each_picture(command, photos, tmp_path):
    flags = [f"--image={photos / name}" for name in ("a.png", "b.jpg")]
    texts = ["--instruction=fog", "--instruction=night"]
    assert command(*flags, *texts, f"--output={tmp_path}/out/") == 0
    assert read_recipe(tmp_path / "out" / "a-0.png").instruction == "fog"
    assert read_recipe(tmp_path / "out" / "b-0.png").instruction == "night"


def test_a_command_goes_on_where_it_was_interrupted(command, photos, tmp_path, monkeypatch, capsys):
    """Ctrl-C leaves whole results and nothing else; these are not made again."""
    out = tmp_path / "out"
    flags = (f"--image={photos}", NIGHT, f"--output={out}/", "--num_images=2", "--compare")
    edit, calls = command.editor.edit, []

    def interrupted(*arguments, **options):
        calls.append(options["seed"])
        if len(calls) == 3:
            options["on_step"] = lambda step: (_ for _ in ()).throw(KeyboardInterrupt)
        return edit(*arguments, **options)

    monkeypatch.setattr(command.editor, "edit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(*flags)
    first = ["a-0-compare.png", "a-0.png", "a-1-compare.png", "a-1.png", "report.jsonl"]
    assert names_in(out) == first
    whole = {name: (out / name).stat().st_mtime_ns for name in first[:-1]}
    capsys.readouterr()
    assert command(*flags) == 0
    assert calls == [0, 1, 0, 0, 1]
    assert "2 of 4 are there" in capsys.readouterr().err
    assert {name: (out / name).stat().st_mtime_ns for name in whole} == whole
    assert sorted(command.report(out)) == ["a-0.png", "a-1.png", "b-0.png", "b-1.png"]
    loaded = len(command.loaded)
    assert command(*flags) == 0  # all are there: nothing is loaded
    assert len(command.loaded) == loaded


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["--steps=3"], "steps"),
        (["--guidance_scale=2"], "guidance"),
        (["--truncate=0"], "truncate"),
        (["--negative=x"], "negative"),
        (["--keep_unchanged"], "keep_unchanged"),
        (["--align"], "align"),
        (["--output_size=edited"], "output_size"),
        (["--dtype=bfloat16"], "dtype"),
        (["--quantize=int8"], "quantize"),
    ],
)
def test_what_was_made_otherwise_is_not_replaced_unasked(command, photos, tmp_path, change, word):
    out = tmp_path / "out"
    flags = (f"--image={photos}", NIGHT, f"--output={out}/")
    assert command(*flags) == 0
    before, loaded = (out / "a-0.png").read_bytes(), len(command.loaded)
    with pytest.raises(UserError, match=rf"2 of 2 results are there, .*a-0\.png: {word}\)"):
        command(*flags, *change)
    assert (out / "a-0.png").read_bytes() == before
    assert len(command.loaded) == loaded
    assert command(*flags, *change, "--overwrite") == 0
    assert (out / "a-0.png").read_bytes() != before
    assert command(*flags, *change) == 0  # now they are of these settings
    assert len(command.loaded) == loaded + 1


def test_a_changed_source_and_a_strangers_file_count_as_made_otherwise(command, photos, tmp_path):
    out = tmp_path / "out"
    flags = (f"--image={photos}", NIGHT, f"--output={out}/")
    assert command(*flags) == 0
    picture((64, 64), 9).save(photos / "a.png")
    with pytest.raises(UserError, match=r"1 of 2 results .*a-0\.png: image\)"):
        command(*flags)
    (out / "a-0.png").unlink()
    picture((64, 64)).save(out / "b-0.png")
    with pytest.raises(UserError, match=r"b-0\.png does not say how it was made"):
        command(*flags)


def test_a_moved_source_is_the_same(command, photos, tmp_path):
    out = tmp_path / "out"
    assert command(f"--image={photos}", NIGHT, f"--output={out}/") == 0
    photos.rename(tmp_path / "moved")
    loaded = len(command.loaded)
    assert command(f"--image={tmp_path}/moved", NIGHT, f"--output={out}/") == 0
    assert len(command.loaded) == loaded


def test_a_row_that_fails_is_reported_and_the_rest_is_made(command, photos, tmp_path, capsys):
    (photos / "b.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    rows = {"gone.png": "fog", "b.jpg": "fog", "a.png": "fog"}
    (photos / "edits.json").write_text(json.dumps(rows))
    flags = (f"--edits={photos}/edits.json", f"--output={tmp_path}/out/")
    assert command(*flags) == 3
    assert names_in(tmp_path / "out") == ["a-0.png", "report.jsonl"]
    report = command.report(tmp_path / "out")
    assert "gone.png cannot be read" in report["gone-0.png"]["error"]
    assert "b.jpg is not a readable picture" in report["b-0.png"]["error"]
    assert report["a-0.png"]["error"] is None
    errors = capsys.readouterr().err
    assert "out/b-0.png was not made: " in errors
    assert "2 of 3 could not be made, see" in errors
    picture((64, 64), 4).save(photos / "b.jpg")
    picture((64, 64), 4).save(photos / "gone.png")
    assert command(*flags) == 0
    assert [line["error"] for line in command.report(tmp_path / "out").values()] == [None] * 3


def test_a_list_of_pictures_that_are_elsewhere_loads_nothing(command, photos, tmp_path):
    (tmp_path / "edits.json").write_text('{"a.png": "fog", "b.jpg": "fog"}')
    loaded = len(command.loaded)
    with pytest.raises(UserError, match=r"a\.png does not exist, nor does another picture"):
        command(f"--edits={tmp_path}/edits.json", f"--output={tmp_path}/out/")
    assert len(command.loaded) == loaded


def test_drift_is_reported(command, photos, tmp_path, monkeypatch):
    """Of an edit that does nothing but move by 2 pixels and brighten by 10 levels."""
    shape = np.random.default_rng(0).uniform(60, 180, (12, 12, 3)).astype(np.uint8)
    source = Image.fromarray(shape).resize((96, 96), Image.Resampling.BICUBIC)
    source.save(photos / "a.png")
    moved = np.roll(np.asarray(source, np.int32), 2, axis=1) + 10
    moved[:, :2] = moved[:, 2:3]
    edited = Image.fromarray(moved.clip(0, 255).astype(np.uint8))
    monkeypatch.setattr(command.editor, "edit", lambda *a, **options: [edited])
    assert command(f"--image={photos}/a.png", NIGHT, f"--output={tmp_path}/out/") == 0
    line = command.report(tmp_path / "out")["a-0.png"]
    assert line["shift"] == pytest.approx([2, 0], abs=0.1)
    assert line["colour"] == pytest.approx([10, 10, 10], abs=1)


@pytest.mark.slow
def test_like_makes_the_same_picture(command, photos, tmp_path, capsys):
    """To the bit, of settings that are none of the defaults; what is given as a flag counts."""
    out = tmp_path / "b.png"
    flags = ["--steps=3", "--guidance_scale=2.5", "--truncate=0.5", "--size=80",
             f"--seed={2**64 - 1}", "--negative=blur", "--output_size=edited"]  # fmt: skip
    assert command(f"--image={photos}/a.png", NIGHT, f"--output={out}", *flags) == 0
    again = tmp_path / "again.png"
    capsys.readouterr()
    assert command(f"--like={out}", f"--output={again}") == 0
    np.testing.assert_array_equal(pixels(again), pixels(out))
    assert again.read_bytes() == out.read_bytes()  # with its note
    told = capsys.readouterr().err
    assert f"as {out}: 'make it night', 3 steps, guidance 2.5, size 80, seed 1844" in told
    assert "warning" not in told
    assert command.loaded[-1]["path"] == "quickstart"
    assert command(f"--like={out}", f"--output={tmp_path}/c.png", "--seed=1", "--negative=") == 0
    other = read_recipe(tmp_path / "c.png")
    assert (other.seed, other.negative, other.steps) == ("1", "", 3)
    assert (pixels(tmp_path / "c.png") != pixels(out)).any()


def test_like_with_another_source_or_other_weights_is_said(
    command, photos, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "b.png"
    assert command(f"--image={photos}/a.png", NIGHT, f"--output={out}") == 0
    capsys.readouterr()
    assert command(f"--like={out}", f"--image={photos}/b.jpg", f"--output={tmp_path}/1.png") == 0
    assert "b.png was made with other files (image)" in capsys.readouterr().err
    noted = read_recipe(out)
    monkeypatch.setattr(
        recipe_module, "build", lambda *a: recipe_module.dataclasses.replace(
            noted, model=recipe_module.File(noted.model.path, "0" * 16 + "-" + "0" * 16)
        ),
    )  # fmt: skip
    assert command(f"--like={out}", f"--output={tmp_path}/2.png") == 0
    assert "b.png was made with other files (model)" in capsys.readouterr().err


def test_speed_is_noted_and_made_again(command, photos, tmp_path, capsys, monkeypatch):
    exact, fast, again = (tmp_path / f"{name}.png" for name in ("exact", "fast", "again"))
    flags = (f"--image={photos}/a.png", NIGHT, "--steps=8")
    assert command(*flags, f"--output={exact}") == 0
    assert command(*flags, f"--output={fast}", "--speed=fast") == 0
    assert (read_recipe(exact).speed, read_recipe(exact).plan) == ("exact", None)
    assert (read_recipe(fast).speed, read_recipe(fast).plan) == ("fast", BUILT_IN["fast"])
    assert (pixels(fast) != pixels(exact)).any()
    assert command(f"--like={fast}", f"--output={again}") == 0
    np.testing.assert_array_equal(pixels(again), pixels(fast))
    capsys.readouterr()
    # a plan that is stored with the model later is another one
    monkeypatch.setitem(BUILT_IN, "fast", dataclasses.replace(BUILT_IN["fast"], order=1))
    assert command(f"--like={fast}", f"--output={tmp_path}/other.png") == 0
    assert "fast.png was made with other files (plan)" in capsys.readouterr().err


def test_like_for_a_list(command, photos, tmp_path):
    """All but pictures, masks and what the rows say."""
    assert command(f"--image={photos}/a.png", NIGHT, f"--output={tmp_path}/b.png", "--seed=4") == 0
    (photos / "edits.json").write_text('[{"image": "b.jpg"}, {"image": "a.png", "seed": 5}]')
    flags = (f"--like={tmp_path}/b.png", f"--edits={photos}/edits.json", f"--output={tmp_path}/o/")
    assert command(*flags) == 0
    assert names_in(tmp_path / "o") == ["a-5.png", "b-4.png", "report.jsonl"]
    made = read_recipe(tmp_path / "o" / "b-4.png")
    assert (made.instruction, made.steps) == ("make it night", 2)


def test_pictures_on_the_way_and_beside(command, photos, tmp_path):
    flags = (f"--image={photos}/a.png", NIGHT, f"--output={tmp_path}/out/x.jpg")
    assert command(*flags, "--steps=4", "--previews=2", "--compare") == 0
    assert names_in(tmp_path / "out") == [
        "x-compare.png", "x-step02.png", "x-step04.png", "x.jpg"
    ]  # fmt: skip
    with Image.open(tmp_path / "out" / "x-compare.png") as page:
        assert page.width == 3 * 8 + 2 * 64


def test_models_are_loaded_as_the_flags_say(command, photos, tmp_path):
    flags = (f"--image={photos}/a.png", NIGHT, f"--output={tmp_path}/x.png")
    given = ("--mesh=tensor=2", "--offload", "--quantize=fp8", "--dtype=bfloat16", "--cache=there")
    assert command(*flags, *given) == 0
    assert command.loaded[-1] == {
        "path": "quickstart", "base": None, "loras": [], "ema": False, "dtype": "bfloat16",
        "mesh": "tensor=2", "text_encoder": None, "vae": None, "cache": "there",
        "quantize": "fp8", "offload": True,
    }  # fmt: skip


def test_masks(command, photos, tmp_path):
    """One for all, one for each, or in a row; what is far from white is the source's."""
    for name, left in (("l.png", 0), ("r.png", 56)):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, left : left + 8] = 255
        Image.fromarray(mask).save(photos.parent / name)
    (photos / "below" / "l.png").write_bytes((photos.parent / "l.png").read_bytes())
    (photos / "edits.json").write_text('[{"image": "a.png", "mask": "below/l.png"}]')
    each = [f"--mask={photos.parent}/{name}" for name in ("l.png", "r.png")]
    images = [f"--image={photos}/{name}" for name in ("a.png", "b.jpg")]
    assert command(*images, *each, NIGHT, f"--output={tmp_path}/each/") == 0
    assert command(*images, each[0], NIGHT, f"--output={tmp_path}/all/") == 0
    assert command(f"--edits={photos}/edits.json", NIGHT, f"--output={tmp_path}/row/") == 0
    a, b = pixels(photos / "a.png"), pixels(photos / "b.jpg")
    for folder, name, source, white, far in (
        ("each", "a-0.png", a, slice(0, 8), slice(16, 64)),
        ("each", "b-0.png", b, slice(56, 64), slice(0, 48)),
        ("all", "b-0.png", b, slice(0, 8), slice(16, 64)),
        ("row", "a-0.png", a, slice(0, 8), slice(16, 64)),
    ):
        made = pixels(tmp_path / folder / name)
        np.testing.assert_array_equal(made[:, far], source[:, far])
        assert (made[:, white] != source[:, white]).mean() > 0.5
    again = tmp_path / "again.png"
    assert command(f"--like={tmp_path}/each/b-0.png", f"--output={again}") == 0
    np.testing.assert_array_equal(pixels(again), pixels(tmp_path / "each" / "b-0.png"))
    (photos.parent / "r.png").write_bytes((photos.parent / "l.png").read_bytes())
    with pytest.raises(UserError, match=r"1 of 2 results .*b-0\.png: mask\)"):
        command(*images, *each, NIGHT, f"--output={tmp_path}/each/")
    picture((8, 8)).save(tmp_path / "small.png")
    loaded = len(command.loaded)
    with pytest.raises(UserError, match=r"small\.png is 8x8 pixels, its picture 64x64"):
        command(images[0], f"--mask={tmp_path}/small.png", NIGHT, f"--output={tmp_path}/s.png")
    assert len(command.loaded) == loaded


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"image": "../a.png", "instruction": "x"}]', r"row 1: '\.\./a\.png' is no path inside"),
        ('[{"image": "/etc/passwd", "instruction": "x"}]', "is no path inside of the folder"),
        ('[{"image": "gs://b/a.png", "instruction": "x"}]', "is no path inside of the folder"),
        ('[{"image": "a.png", "mask": "../m.png", "instruction": "x"}]', "is no path inside"),
        ('[{"image": "a.png", "output": "../x.png", "instruction": "x"}]', "is no path inside"),
        ('[{"image": "a.png", "output": "x.gif", "instruction": "x"}]', "should end in .png"),
        ('[{"image": "a.png"}]', "--instruction is empty; say what"),
        ('[{"image": "a.png", "instruction": " "}]', "--instruction is empty; say what"),
        ('[{"instruction": "x"}]', "row 1: missing required field image; add it"),
        ('[{"image": "a.png", "instruction": 3}]', "row 1: instruction is 3; expected str"),
        ('[{"image": "a.png", "instruction": "x", "seeed": 3}]', "unknown field seeed"),
        ('[{"image": "a.png", "instruction": "x", "steps": 0}]', "steps is 0; expected int >= 1"),
        ('[{"image": "a.png", "instruction": "x", "guidance": "1"}]', "guidance is '1'"),
        ('[{"image": "a.png", "instruction": "x", "seed": -1}]', "the seed is -1"),
        ('["a.png"]', "row 1 is 'a.png'; give an object"),
        ('{"a.png": ["x"]}', "should hold a list of rows, or an object of picture: instruction"),
        ("3", "should hold a list of rows"),
        ("[]", "has no rows"),
        ("[", "is not valid JSON"),
        ('{"a.png": "x", "below/../a.png": "y"}', "is no path inside"),
        ('[{"image": "a.png", "instruction": "x"}, {"image": "a.png", "instruction": "y"}]',
         r"two results would be .*a-0\.png; name them"),
    ],
)  # fmt: skip
def test_lists_are_read_strictly_and_before_anything_is_loaded(
    command, photos, tmp_path, text, reason
):
    (photos / "edits.json").write_text(text)
    loaded = len(command.loaded)
    with pytest.raises(UserError, match=reason) as caught:
        command(f"--edits={photos}/edits.json", f"--output={tmp_path}/out/")
    assert str(caught.value).count("\n") == 0
    assert len(command.loaded) == loaded


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--image=a.png", "--image=b.jpg"], "is one file, and there are 2 results; give a folder"),
        (["--image=a.png", "--num_images=2"], "is one file, and there are 2 results"),
        (["--image=a.png", "--image=b.jpg", "--instruction=1", "--instruction=2",
          "--instruction=3"], "there are 3 --instruction and 2 --image; give one for all"),
        (["--image=a.png", "--negative=1", "--negative=2"], "2 --negative and 1 --image"),
        (["--image=a.png", "--edits=x.json"], "leave --image and --mask out"),
        (["--edits=gone.json"], "gone.json cannot be read"),
        (["--image=a.png", "--image=gone.png", "--output=out/"], "gone.png cannot be read"),
        (["--image=a.png", "--image=./a.png", "--output=out/"], "two results would be out/a-0.png"),
        (["--image=below", "--image=empty", "--output=out/"], "empty has no pictures in it"),
        (["--image=a.png", "--output=out/{stem}"], "should end in .png"),
        (["--image=a.png", "--num_images=2", "--output={stem}.png"], "two results would be a.png"),
        (["--image=.", "--output={stem}.png"], "is the picture to edit, which would be lost"),
        (["--image=a.png", "--image=b.jpg", "--output=out/", "--noise=x.npy"],
         "--noise is that of one result, and there are 2"),
        (["--image=a.png", "--output_size=8"], "--output_size=8: give input, edited, or a size"),
        (["--image=a.png", "--output_size=0x8"], "--output_size=0x8: give input"),
        (["--image=a.png", "--output=there.png"], "there.png is there already; give another"),
        (["--image=a.png", "--output=there.jpg", "--compare"], "there-compare.png is there"),
        (["--image=a.png", f"--seed={2**64 - 1}", "--num_images=2", "--output=out/"],
         "the seed is 18446744073709551615"),
        (["--like=a.png"], "a.png does not say how it was made"),
        (["--like=gone.png"], "gone.png cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_is_loaded(
    command, photos, monkeypatch, flags, reason
):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    for name in ("there.png", "there-compare.png"):
        (photos / name).write_text("mine")
    loaded = len(command.loaded)
    before = names_in(photos)
    if not any("--instruction" in flag for flag in flags):
        flags = [*flags, "--instruction=night"]
    with pytest.raises(UserError, match=reason) as caught:
        command(*flags)
    assert str(caught.value).count("\n") == 0
    assert len(command.loaded) == loaded
    assert names_in(photos) == before


def test_one_result_replaces_what_is_there_if_asked(command, photos, tmp_path):
    (tmp_path / "x.png").write_text("mine")
    flags = (f"--image={photos}/a.png", NIGHT, f"--output={tmp_path}/x.png")
    assert command(*flags, "--overwrite") == 0
    assert pixels(tmp_path / "x.png").shape == (64, 64, 3)
