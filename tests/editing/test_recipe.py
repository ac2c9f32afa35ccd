"""Notes in edited pictures: written, read, and read from strangers."""

import dataclasses
import json
import os
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from step1x_jax.editing.output_files import (
    LARGEST_NOTE,
    NOTE,
    check_format,
    read_note,
    save_picture,
)
from step1x_jax.editing.recipe import (
    File,
    MergedLora,
    Recipe,
    differences,
    from_note,
    noted_path,
    read_recipe,
    to_note,
)
from step1x_jax.errors import UserError
from step1x_jax.sampling.plan import SamplingPlan

SHA, WEIGHTS = "ab" * 32, "0123456789abcdef-0123456789abcdef"
FULL = Recipe(
    image=File("photo é.jpg", SHA),
    instruction='make it "夜"\n\x1b[31m',
    negative="blur",
    seed=str(2**64 - 1),
    steps=7,
    guidance=0.1 + 0.2,
    size=512,
    truncate=0.0,
    output_size="800x600",
    mask=File("mask.png", SHA),
    keep_unchanged=True,
    align=True,
    noise=File("noise.npy", SHA),
    model=File("~/weights", WEIGHTS),
    base="~/base",
    ema=True,
    loras=(MergedLora("a.safetensors", WEIGHTS, -0.5), MergedLora("b", WEIGHTS, 1.0)),
    autoencoder=File("", WEIGHTS),
    encoder=File("qwen", WEIGHTS),
    dtype="bfloat16",
    quantize="int8",
    made_with="x",
    speed="fast",
    plan=SamplingPlan(7, (0, 3, 6), (0, 6), 0),
)
P = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "PNG"])
@pytest.mark.parametrize("recipe", [Recipe(), FULL])
def test_a_note_comes_back_from_every_format(tmp_path, ending, recipe):
    path = tmp_path / f"x.{ending}"
    save_picture(path, P, to_note(recipe))
    assert read_recipe(path) == recipe
    with Image.open(path) as image:
        assert image.size == P.size
        if ending.lower() == "png":
            np.testing.assert_array_equal(np.asarray(image), np.asarray(P))


def test_a_png_has_it_where_others_look(tmp_path):
    """An iTXt chunk with our keyword, before the pixels; by the specification of PNG."""
    save_picture(tmp_path / "x.png", P, to_note(FULL))
    data = (tmp_path / "x.png").read_bytes()
    at = data.index(b"iTXt")
    length = int.from_bytes(data[at - 4 : at], "big")
    keyword, rest = data[at + 4 : at + 4 + length].split(b"\0", 1)
    assert keyword == b"step1x_jax"
    assert rest[:4] == b"\0\0\0\0"  # not compressed, no language, no translated keyword
    assert json.loads(rest[4:])["instruction"] == FULL.instruction
    assert at < data.index(b"IDAT")


def test_too_long_a_note_is_left_out(tmp_path):
    for ending in ("png", "jpg", "webp"):
        save_picture(tmp_path / f"x.{ending}", P, "x" * (LARGEST_NOTE + 1))
        assert read_note(tmp_path / f"x.{ending}") is None
        assert b"xxxx" not in (tmp_path / f"x.{ending}").read_bytes()
        save_picture(tmp_path / f"x.{ending}", P, "x" * LARGEST_NOTE)
        assert read_note(tmp_path / f"x.{ending}") == "x" * LARGEST_NOTE


def test_too_long_a_note_of_a_stranger_is_not_read(tmp_path):
    text = "x" * (LARGEST_NOTE + 1)
    with_chunk(tmp_path / "x.png", lambda info: info.add_itxt(NOTE, text))
    assert read_note(tmp_path / "x.png") is None


def with_chunk(path, add):
    info = PngInfo()
    add(info)
    P.save(path, pnginfo=info)
    return path


def test_a_picture_of_somebody_else_has_none(tmp_path):
    P.save(tmp_path / "x.png")
    P.save(tmp_path / "x.webp")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    P.save(tmp_path / "x.jpg", exif=exif)
    for name in ("x.png", "x.jpg", "x.webp"):
        with pytest.raises(UserError, match=f"{name} does not say how it was made"):
            read_recipe(tmp_path / name)
    for values in ([1], {"other": 1}, {NOTE: 3}):
        exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + json.dumps(values).encode()
        P.save(tmp_path / "x.jpg", exif=exif)
        assert read_note(tmp_path / "x.jpg") is None


def test_a_bomb_in_a_strangers_picture_is_refused(tmp_path):
    """A compressed chunk of 100 MB, and one that is cut off."""
    bomb = b"step1x_jax\0\1\0\0\0" + zlib.compress(b"{" * 100_000_000, 9)
    with_chunk(tmp_path / "bomb.png", lambda info: info.add(b"iTXt", bomb))
    with pytest.raises(UserError, match=r"bomb\.png"):
        read_recipe(tmp_path / "bomb.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "bomb.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"cut\.png is no readable PNG, JPEG or WebP picture"):
        read_recipe(tmp_path / "cut.png")


def changed(**values):
    return json.dumps(json.loads(to_note(FULL)) | values)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "expected"),
        ("{", "is not valid JSON"),
        ("[" * 50_000, "nested too deeply"),
        (changed(other=1), "unknown field other"),
        (changed(instruction=["x"]), "instruction is .*expected str"),
        (changed(steps=10**9), "steps is 1000000000"),
        (changed(steps=1.5), "steps is 1.5"),
        (changed(guidance=1e30), "guidance is 1e"),
        (changed(size=0), "size is 0"),
        (changed(truncate=-1), "truncate is -1"),
        (changed(seed="x"), "seed is 'x'"),
        (changed(seed="9" * 20), "the seed is 99999999999999999999"),
        (changed(seed="1\n"), "seed is"),
        (changed(seed=5), "seed is 5; expected str"),
        (changed(output_size="1x1;rm"), "output_size is"),
        (changed(dtype="float8"), "dtype is"),
        (changed(quantize="x"), "quantize is"),
        (changed(speed="quick"), "speed is 'quick'"),
        (changed(plan={"num_steps": 2, "computed": [1], "unconditional": [1]}), "computed should"),
        (changed(plan={"num_steps": 2}), "missing required field"),
        (changed(model={"path": "x", "digest": "zz"}), "model.digest is"),
        (changed(model={"path": "gs://bucket/x"}), "gs://bucket/x is on the network"),
        (changed(image={"path": "s3://bucket/x"}), "s3://bucket/x is on the network"),
        (changed(mask={"path": "hf://a/x"}), "hf://a/x is on the network"),
        (changed(base="https://x.org/a"), "https://x.org/a is on the network"),
        (changed(loras=[{"path": "gs://b/l", "strength": 1.0}]), "gs://b/l is on the network"),
        (changed(loras=[{"path": "l", "strength": "1"}]), "strength is '1'"),
        (changed(image={"path": "a\0b"}), "has a null character"),
    ],
)
def test_what_a_stranger_has_written_is_read_strictly(tmp_path, text, reason):
    with_chunk(tmp_path / "x.png", lambda info: info.add_itxt(NOTE, text))
    with pytest.raises(UserError, match=reason) as caught:
        read_recipe(tmp_path / "x.png")
    assert "x.png" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_what_is_not_a_number_is_not_read():
    with pytest.raises(UserError, match="not valid JSON"):
        from_note(to_note(FULL).replace('"guidance": 0.3', '"guidance": NaN, "x": 0.3'), "it")


def other_value(name, value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, File):
        return dataclasses.replace(value, digest="cd" * 32)
    if isinstance(value, SamplingPlan):
        return dataclasses.replace(value, order=1)
    if isinstance(value, tuple):
        return value[:1]
    return value + 1 if isinstance(value, int | float) else f"{value}1"


def test_differences_are_of_what_decides_the_pixels():
    for field in dataclasses.fields(Recipe):
        other = dataclasses.replace(
            FULL, **{field.name: other_value(field.name, getattr(FULL, field.name))}
        )
        assert other != FULL
        want = [] if field.name in ("base", "made_with") else [field.name]
        assert differences(FULL, other) == want
    moved = dataclasses.replace(
        FULL,
        image=File("elsewhere", SHA),
        loras=tuple(dataclasses.replace(lora, path="x") for lora in FULL.loras),
    )
    assert differences(FULL, moved) == []
    stronger = dataclasses.replace(FULL.loras[1], strength=2.0)
    louder = dataclasses.replace(FULL, loras=(FULL.loras[0], stronger))
    assert differences(FULL, louder) == ["loras"]


def test_the_users_name_stays_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert noted_path("/home/ada/photos/a.jpg") == "~/photos/a.jpg"
    assert noted_path("/home/adam/a.jpg") == "/home/adam/a.jpg"
    assert noted_path("photos/a.jpg") == "photos/a.jpg"
    assert noted_path(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"


def test_formats_are_refused_by_name_and_size():
    check_format("x.WebP", (16_383, 1))
    check_format("x.png", (100_000, 1))
    for name, size, reason in (
        ("x.gif", None, "should end in .png, .jpg or .webp"),
        ("x", None, "should end in .png"),
        ("x.webp", (1, 16_384), "WEBP holds no picture of 1x16384 pixels; write a .png"),
        ("x.jpg", (65_536, 1), "JPEG holds no picture of 65536x1"),
    ):
        with pytest.raises(UserError, match=reason):
            check_format(name, size)
