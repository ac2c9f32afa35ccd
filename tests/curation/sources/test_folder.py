"""Pictures of a folder."""

import hashlib
import json
import os

import pytest

from step1x_jax.curation.sources import photograph_rows
from step1x_jax.curation.sources.folder import ImageFolder
from step1x_jax.errors import UserError
from tests.curation.sources.reading import parts_of, png, rows_of


@pytest.fixture
def folder(tmp_path):
    """Five pictures in two folders, one of them torn, and what is no picture."""
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("b.png", "a.PNG", "sub/c.png", "sub/d.jpg", "sub/e.png")):
        (tmp_path / name).write_bytes(png(number) if name != "sub/d.jpg" else png(3)[:500])
    (tmp_path / "notes.txt").write_text("none")
    said = [{"file_name": "b.png", "license": "CC0", "url": "https://x/b", "text": "other"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, said)))
    return tmp_path


def test_rows(folder):
    source = ImageFolder(str(folder), licence="CC BY 4.0", url="https://here")
    rows = rows_of(source)
    assert rows[3] == "unreadable_picture"
    del rows[3]
    assert [row["name"] for row in rows] == ["a.PNG", "b.png", "sub/c.png", "sub/e.png"]
    assert [row["group"] for row in rows] == [row["name"] for row in rows]
    assert [row["licence"] for row in rows] == ["CC BY 4.0", "CC0", "CC BY 4.0", "CC BY 4.0"]
    assert [row["url"] for row in rows][:2] == ["https://here", "https://x/b"]
    assert rows[2]["picture"] == png(2)
    assert rows[2]["sha256"] == hashlib.sha256(png(2)).hexdigest()
    assert (rows[2]["width"], rows[2]["height"]) == (32, 24)


def test_parts_and_ids(folder, monkeypatch):
    whole = parts_of(ImageFolder(str(folder)))
    assert [len(part) for part in whole] == [5]
    cut = parts_of(ImageFolder(str(folder), rows=2))
    assert [len(part) for part in cut] == [2, 2, 1]
    assert [one for part in cut for one in part] == whole[0]
    assert len({id for id, _ in whole[0]}) == 5
    monkeypatch.setattr(photograph_rows, "UNIT_BYTES", len(png(0)) * 3)
    assert [len(part) for part in parts_of(ImageFolder(str(folder)))] == [3, 2]


def test_stamps_tell_what_changed(folder):
    def stamps():
        return [unit.stamp for unit in ImageFolder(str(folder), rows=2).units()]

    first = stamps()
    assert stamps() == first
    (folder / "sub/e.png").write_bytes(png(9))
    second = stamps()
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False]
    (folder / "metadata.jsonl").write_text("")
    assert stamps()[0] != second[0]


def test_names_that_are_no_text(folder):
    os.rename(folder / "b.png", os.fsencode(folder) + b"/\xe9.png")
    names = [
        row["name"] for row in rows_of(ImageFolder(str(folder))) if row != "unreadable_picture"
    ]
    assert r"\xe9.png" in names


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        rows_of(ImageFolder(str(tmp_path / "none")))
    with pytest.raises(UserError, match="has no pictures"):
        rows_of(ImageFolder(str(tmp_path)))
    with pytest.raises(UserError, match="rows is 0"):
        rows_of(ImageFolder(str(tmp_path), rows=0))
