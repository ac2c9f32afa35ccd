"""The audit log: hashes by hand, every kind of tampering, and writes that fail."""

import hashlib
import json
import multiprocessing
import os

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.deidentify.audit_log import FIRST, append_entries, verify_log
from step1x_jax.files import exclusive


def test_each_entry_has_the_hash_of_the_line_before(tmp_path):
    log = tmp_path / "audit.jsonl"
    assert verify_log(log) == (FIRST, 0)
    append_entries(log, [{"event": "a"}, {"event": "b", "text": "变"}])
    head = append_entries(log, [{"event": "c"}])
    lines = log.read_bytes().splitlines()
    previous = "0" * 64
    for line in lines:
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line).hexdigest()
    assert (previous, len(lines)) == (head, 3) == verify_log(log)
    assert [json.loads(line)["event"] for line in lines] == ["a", "b", "c"]
    assert (log.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: [lines[0].replace(b"event", b"evant"), *lines[1:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:2], b"{}", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'["previous"]', *lines[2:]], 3),
    ],
)
def test_what_was_changed_removed_or_inserted_is_noticed(tmp_path, tamper, line):
    log = tmp_path / "audit.jsonl"
    append_entries(log, [{"event": str(i)} for i in range(4)])
    changed = b"".join(one + b"\n" for one in tamper(log.read_bytes().splitlines()))
    log.write_bytes(changed)
    with pytest.raises(UserError, match=f"changed or cut off at line {line}"):
        append_entries(log, [{"event": "more"}])
    assert log.read_bytes() == changed


def test_a_cut_entry_is_noticed_and_a_cut_log_by_its_head(tmp_path):
    log = tmp_path / "audit.jsonl"
    head = append_entries(log, [{"event": str(i)} for i in range(3)])
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    with pytest.raises(UserError, match="cut off at line 3"):
        verify_log(log)
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert verify_log(log)[0] != head


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    log = tmp_path / "audit.jsonl"
    append_entries(log, [{"event": "a"}])
    before = log.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(UserError, match="could not be written"):
        append_entries(log, [{"event": "b"}])
    monkeypatch.undo()
    assert log.read_bytes() == before
    append_entries(log, [{"event": "c"}])


def test_two_writers_do_not_mix(tmp_path):
    log = tmp_path / "audit.jsonl"
    with exclusive(tmp_path / "audit.jsonl.lock", "taken."):
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool, pytest.raises(UserError, match="another process writes"):
            pool.apply(append_entries, (log, [{"event": "a"}]))
    assert not log.exists()


def test_not_on_an_object_store():
    with pytest.raises(UserError, match="object store"):
        append_entries("gs://bucket/audit.jsonl", [])
