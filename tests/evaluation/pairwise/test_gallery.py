"""Lists of galleries, read and written; no path leaves the folder."""

import json

import pytest
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.gallery import METADATA, read_gallery, write_gallery


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


def test_what_is_written_is_read(tmp_path):
    folder = epath.Path(tmp_path)
    gallery = {"k1": {"m": folder / "m/k1.png", "n": folder / "n/k1.jpg"}, "钥": {}}
    write_gallery(folder, gallery, {"k1": {"instruction": "换"}})
    assert read_gallery(folder) == gallery
    first = json.loads((folder / METADATA).read_text().splitlines()[0])
    assert first == {
        "key": "k1",
        "instruction": "换",
        "candidates": [{"model": "m", "image": "m/k1.png"}, {"model": "n", "image": "n/k1.jpg"}],
    }


@pytest.mark.parametrize(
    "path", ["../x.png", "a/../../x.png", "/etc/passwd", "s3://bucket/x.png", "", "a\0b", None, 3]
)
def test_no_path_leaves_the_folder(tmp_path, path):
    write(tmp_path, row(a="a/k.png"), row("k2", b=path))
    with pytest.raises(UserError, match="line 2"):
        read_gallery(tmp_path)


def test_nothing_outside_is_listed(tmp_path):
    with pytest.raises(UserError, match="does not lie in"):
        write_gallery(tmp_path / "gallery", {"k": {"m": epath.Path(tmp_path / "m/k.png")}})
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
