"""Lists of galleries, read and written; no path leaves the folder."""

import json

import pytest
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.gallery import (
    METADATA,
    find_listed,
    read_gallery,
    update_gallery,
)
from step1x_jax.evaluation.samples import SampleId


def write(folder, *rows):
    (folder / METADATA).write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(key="text_000001", **candidates):
    return {
        "key": key,
        "instruction": "add a hat",
        "candidates": [{"model": m, "image": path} for m, path in candidates.items()],
    }


def test_the_published_layout_is_read(tmp_path):
    write(tmp_path, row(a="a/text_000001.png", b="images/edited/b/text_000001.png"), row("k2"))
    assert read_gallery(tmp_path) == {
        "text_000001": {
            "a": epath.Path(tmp_path / "a/text_000001.png"),
            "b": epath.Path(tmp_path / "images/edited/b/text_000001.png"),
        },
        "k2": {},
    }


def test_what_is_written_is_read_and_other_methods_stay(tmp_path):
    write(tmp_path, row("k1", a="a/k1.png", b="b/k1.png"))
    folder = epath.Path(tmp_path)
    update_gallery(folder, "a", {"k1": folder / "new/k1.jpg", "钥": folder / "new/钥.png"})
    assert read_gallery(folder) == {
        "k1": {"b": folder / "b/k1.png", "a": folder / "new/k1.jpg"},
        "钥": {"a": folder / "new/钥.png"},
    }
    first = json.loads((folder / METADATA).read_text().splitlines()[0])
    assert first["instruction"] == "add a hat"  # of other programs
    assert first["candidates"][1] == {"model": "a", "image": "new/k1.jpg"}


def test_a_list_is_made_where_there_is_none(tmp_path):
    update_gallery(tmp_path, "a", {"k": epath.Path(tmp_path) / "a/k.png"})
    values = json.loads((tmp_path / METADATA).read_text())
    assert values == {"key": "k", "candidates": [{"model": "a", "image": "a/k.png"}]}


def test_pictures_of_samples_are_found_by_the_list(tmp_path):
    samples = [SampleId("t", "", key) for key in ("k1", "k2", "k3")]
    assert find_listed(tmp_path, "a", samples) == {}
    write(tmp_path, row("k1", a="x/1.png"), row("k2", a="x/2.png", b="b/2.png"))
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.png").write_bytes(b"")
    assert find_listed(tmp_path, "a", samples) == {samples[0]: epath.Path(tmp_path / "x/1.png")}
    assert find_listed(tmp_path, "c", samples) == {}


@pytest.mark.parametrize(
    "path", ["../x.png", "a/../../x.png", "/etc/passwd", "s3://bucket/x.png", "", "a\0b", None, 3]
)
def test_no_path_leaves_the_folder(tmp_path, path):
    write(tmp_path, row(a="a/k.png"), row("k2", b=path))
    with pytest.raises(UserError, match="line 2"):
        read_gallery(tmp_path)


def test_nothing_outside_is_listed(tmp_path):
    with pytest.raises(UserError, match="is not in"):
        update_gallery(tmp_path / "gallery", "m", {"k": epath.Path(tmp_path / "m/k.png")})
    assert not (tmp_path / "gallery" / METADATA).exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([[1]], "no JSON object"),
        ([{"candidates": []}], "no text as key"),
        ([row("k"), row("k")], "lists k again"),
        ([{"key": "k", "candidates": {"a": "b"}}], "no list of objects"),
        ([{"key": "k", "candidates": [{"image": "a.png"}]}], "no text as model"),
        (
            [
                {
                    "key": "k",
                    "candidates": [{"model": "a", "image": "1"}, {"model": "a", "image": "2"}],
                }
            ],
            "lists a twice",
        ),
    ],
)
def test_other_lists_are_refused(tmp_path, rows, words):
    write(tmp_path, *rows)
    with pytest.raises(UserError, match=words):
        read_gallery(tmp_path)
