"""Files that are complete or not there, on a disk and on an object store."""

import hashlib
import subprocess
import sys

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


def test_sizes_of_files_whose_owner_has_no_name(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"12345")

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert files.file_size(path) == 5
    assert fingerprint(path) == fingerprint(path)


def test_a_folder_with_brackets_in_its_name_is_listed(tmp_path):
    folder = tmp_path / "[set] *?"
    folder.mkdir()
    for name in ("b.json", "a.json", "a.txt"):
        (folder / name).write_text("")
    assert [path.name for path in files.find(folder, "*.json")] == ["a.json", "b.json"]
    assert files.find(tmp_path / "nowhere", "*") == []


def test_leftovers_of_killed_processes_are_removed_and_files_in_use_are_not(tmp_path):
    killed = tmp_path / ".out.txt.0123abcd.tmp"
    killed.write_text("half")
    killed_folder = tmp_path / ".out.txt.0123abce.tmp"
    killed_folder.mkdir()
    (killed_folder / "x").write_text("half")
    another = tmp_path / ".other.txt.0123abcd.tmp"
    another.write_text("half")
    with replacing(tmp_path / "out.txt") as first:
        first.write_text("first")
        with replacing(tmp_path / "out.txt") as second:
            assert first.exists()
            second.write_text("second")
        assert (tmp_path / "out.txt").read_text() == "second"
    assert (tmp_path / "out.txt").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [another.name, "out.txt"]
    with files.making_folder(tmp_path / "other.txt") as folder:
        (folder / "x").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "out.txt"]


def test_what_one_process_holds_another_is_refused(tmp_path):
    path = tmp_path / "run [a]" / ".lock"
    code = (
        "import sys; from step1x_jax.files import exclusive\n"
        f"with exclusive({str(path)!r}, 'held'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="another process"),
            files.exclusive(path, "another process works here."),
        ):
            pass
        other.kill()
    assert path.exists()  # what a killed process leaves does not count
    with (
        files.exclusive(path, ""),
        pytest.raises(UserError, match="twice"),
        files.exclusive(path, "twice"),
    ):
        pass
    assert not path.exists()


def test_paths_of_users(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.user_path("~/x.png") == "/home/somebody/x.png"
    assert files.user_path("gs://bucket/~x") == "gs://bucket/~x"
    assert files.user_path("a [b]/ü") == "a [b]/ü"
    assert files.user_path("caf\udce9") == "caf\udce9"  # bytes that are not UTF-8
    for text, stored in (("a\0b", False), ("~nobody-of-that-name/x", False), ("caf\udce9", True)):
        with pytest.raises(UserError):
            files.user_path(text, stored=stored)


def test_a_folder_in_the_place_of_a_file_is_told_before_work(tmp_path):
    with pytest.raises(UserError, match="directory"):
        check_writable(tmp_path)


def test_fingerprints_see_the_middle_of_a_file_and_know_those_of_before(tmp_path):
    path = tmp_path / "a"
    content = bytearray(b"\1" * (40 << 20))
    path.write_bytes(content)
    before = fingerprint(path)
    digest = hashlib.sha256(f" {len(content)} ".encode())  # as before the middle was covered
    digest.update(content[: 1 << 20])
    digest.update(content[-(1 << 20) :])
    old = digest.hexdigest()[:16]
    assert files.same_files(fingerprint(path), before)
    assert files.same_files(fingerprint(path), old)
    content[10 << 20 : 12 << 20] = b"\2" * (2 << 20)  # as layers that were trained further
    path.write_bytes(content)
    assert not files.same_files(fingerprint(path), before)
    assert files.same_files(fingerprint(path), old)
    content[0] = 0
    path.write_bytes(content)
    assert not files.same_files(fingerprint(path), old)
