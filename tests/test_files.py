"""Files that are complete or not there, on a disk and on an object store."""

import pytest

from step1x_jax import files
from step1x_jax.errors import UserError
from step1x_jax.files import (
    Growing,
    check_writable,
    fetch,
    fingerprint,
    identity,
    read_range,
    replacing,
)

PATH = "gs://bucket/folder/file.txt"
NAME = "bucket/folder/file.txt"


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_an_object_is_put_once_and_whole(store):
    write(PATH, "one")
    write(PATH, "two")
    assert store.puts == [NAME, NAME]
    assert store.get(NAME)[1] == b"two"


def test_a_failure_half_way_leaves_what_was_there(store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for error in (ValueError, KeyboardInterrupt):  # the latter stands for anything that ends a run
        with pytest.raises(error), replacing(PATH) as temporary, temporary.open("w") as f:
            f.write("half")
            f.flush()
            raise error
        assert store.names == []
    write(PATH, "old")
    with pytest.raises(ValueError), replacing(PATH) as temporary:  # noqa: PT011
        temporary.write_text("half")
        raise ValueError
    store.full = True
    with pytest.raises(UserError, match=f"{PATH} could not be written .*takes nothing"):
        write(PATH, "new")
    assert store.get(NAME)[1] == b"old"
    assert list(tmp_path.iterdir()) == []  # nothing stays behind here, either


def test_a_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    write(path, "old")
    with pytest.raises(ValueError), replacing(path) as temporary:  # noqa: PT011
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_place_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another place"):
        write(tmp_path / "file" / "below.txt", "new")


def test_errors_of_a_stores_library_become_one_sentence(store, monkeypatch):
    class HttpError(Exception):  # gcsfs' own is no OSError
        pass

    def refuse(name, data):
        raise HttpError("403, no access")

    monkeypatch.setattr(store, "put", refuse)
    with pytest.raises(UserError, match="HttpError: 403, no access"):
        write(PATH, "new")
    with pytest.raises(UserError, match="HttpError: 403, no access"):
        check_writable(PATH)


def test_a_place_is_tried_without_a_trace(store):
    check_writable(PATH)
    assert len(store.puts) == 1
    assert store.names == []


def test_reading(store, tmp_path):
    write(PATH, "0123456789")
    assert read_range(PATH, 2, 5) == b"234"
    assert read_range(PATH, 8, 12) == b"89"
    local = tmp_path / "copy"
    fetch(PATH, local)
    assert local.read_text() == "0123456789"
    assert fingerprint(PATH) == fingerprint(local)
    before = identity(PATH)
    assert identity(PATH) == before
    write(PATH, "9876543210")  # of the same size
    assert identity(PATH) != before


def test_a_growing_file_is_put_seldom(store, monkeypatch):
    growing = Growing("gs://bucket/run")
    with (growing.local / "rows").open("a") as f:
        f.write("1")
    growing.put()
    assert store.names == []
    with monkeypatch.context() as patch:
        patch.setattr(files, "BETWEEN_PUTS", -1.0)
        growing.put()
    assert store.get("bucket/run/rows")[1] == b"1"
    (growing.local / "below").mkdir()
    (growing.local / "below" / "more").write_text("2")
    growing.close()
    assert store.names == ["bucket/run/below/more", "bucket/run/rows"]
    assert not growing.local.exists()


def test_on_a_disk_a_file_grows_in_its_place(tmp_path):
    growing = Growing(tmp_path)
    assert growing.local == tmp_path
    growing.close()
    assert tmp_path.exists()
