"""Pictures in tar files, whole and damaged."""

import io
import json
import tarfile

import pytest

from step1x_jax.curation.sources.archives import WebDataset
from step1x_jax.errors import UserError
from tests.curation.sources.reading import parts_of, png, rows_of


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def archive(tmp_path):
    """Four samples: one with metadata, one with a torn picture, one without a picture."""
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "0000.png", png(0))
        add(tar, "0000.json", json.dumps({"license": "CC0", "url": "https://x/0"}).encode())
        add(tar, "0000.txt", b"a caption")
        add(tar, "sub/0001.png", png(1))
        add(tar, "sub/0001.json", b"not json")
        add(tar, "0002.jpg", b"torn")
        add(tar, "0003.txt", b"no picture")
        link = tarfile.TarInfo("0004.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "0005.png", png(5))
    return path


def test_rows(archive):
    rows = rows_of(WebDataset(str(archive.parent), licence="unknown"))
    assert rows.pop(2) == "unreadable_picture"
    assert [row["name"] for row in rows] == [
        "shard-000.tar/0000.png", "shard-000.tar/sub/0001.png", "shard-000.tar/0005.png"
    ]  # fmt: skip
    assert [row["picture"] for row in rows] == [png(0), png(1), png(5)]
    assert [row["licence"] for row in rows] == ["CC0", "unknown", "unknown"]
    assert [row["url"] for row in rows] == ["https://x/0", "", ""]


def test_parts(archive):
    parts = parts_of(WebDataset(str(archive), rows=3))
    assert [len(part) for part in parts] == [3, 1]
    assert [one for part in parts for one in part] == parts_of(WebDataset(str(archive)))[0]


def test_truncated_in_a_picture(archive):
    """What lies before stays, with the ids that it has in the whole archive."""
    whole = parts_of(WebDataset(str(archive)))[0]
    data = archive.read_bytes()
    archive.write_bytes(data[: data.index(png(5)) + 100])
    (first, damage) = parts_of(WebDataset(str(archive)))
    assert first == whole[:3]
    assert [row for _, row in damage] == ["damaged_archive"]


@pytest.mark.parametrize("damage", [lambda d: d[:1700], lambda d: d[:2048] + b"x" * 1000])
def test_damaged_between(archive, damage):
    archive.write_bytes(damage(archive.read_bytes()))
    rows = rows_of(WebDataset(str(archive)))
    assert rows[-1] == "damaged_archive"


def test_no_archive_at_all(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no archive" * 1000)
    assert rows_of(WebDataset(str(tmp_path))) == ["damaged_archive"]
    with pytest.raises(UserError, match=r"end in \.tar"):
        rows_of(WebDataset(str(tmp_path / "none")))
