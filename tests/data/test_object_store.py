"""Data sets on an object store: written to it, and read from a local copy."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from etils import epath

from step1x_jax.data import local_copy
from step1x_jax.data.local_copy import copy_to_local_disk
from step1x_jax.data.manifest import MANIFEST, read_manifest, write_dataset
from step1x_jax.data.precompute import precompute
from step1x_jax.errors import UserError
from tests.data.examples import make_record
from tests.data.test_pipeline import RECORDS, assert_same, batches
from tests.data.test_precompute import (  # noqa: F401
    BATCH,
    SETTINGS,
    listed,
    models,
    read_all,
    rows,
)

FOLDER = "gs://bucket/data"


def copied(folder=FOLDER):
    return copy_to_local_disk(epath.Path(folder), read_manifest(epath.Path(folder) / MANIFEST))


@pytest.fixture
def fetched(monkeypatch):
    """The names of the objects that were fetched."""
    names = []

    def fetch(path, local):
        names.append(path.name)
        original(path, local)

    original = local_copy.fetch
    monkeypatch.setattr(local_copy, "fetch", fetch)
    return names


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_batches_equal_those_from_a_disk(store, tmp_path, scheme):
    write_dataset(tmp_path, RECORDS)
    write_dataset(f"{scheme}://bucket/data", RECORDS)
    store.freeze_listings()
    assert_same(batches(f"{scheme}://bucket/data", 6, start=5), batches(str(tmp_path), 6, start=5))


def test_shards_are_fetched_once_and_again_after_they_were_replaced(store, fetched):
    write_dataset(FOLDER, RECORDS)
    names = [shard.file for shard in read_manifest(f"{FOLDER}/{MANIFEST}").shards]
    first = copied()
    assert sorted(fetched) == sorted(names)
    assert copied() == first
    assert len(fetched) == len(names)
    changed = [make_record(100 + i, r.source.shape[:2]) for i, r in enumerate(RECORDS)]
    changed = [dataclasses.replace(c, text=r.text) for c, r in zip(changed, RECORDS, strict=True)]
    write_dataset(FOLDER, changed)
    copies = {r.id: r for r in read_copies()}
    assert set(copies) == {record.id for record in changed}
    (first / names[0]).write_bytes(b"cut short")
    fetched.clear()
    copied()
    assert fetched == names[:1]


def read_copies():
    folder = copied()
    shutil.copy(folder_manifest(), folder / MANIFEST)
    return read_all(folder).values()


def folder_manifest():
    path = epath.Path("~/manifest.json").expanduser()
    path.write_text((epath.Path(FOLDER) / MANIFEST).read_text())
    return path


def test_processes_of_a_machine_fetch_each_shard_once(store, fetched):
    write_dataset(FOLDER, RECORDS)
    with ThreadPoolExecutor(
        4
    ) as threads:  # the lock is a file lock, so threads stand for processes
        (folder,) = set(threads.map(lambda _: copied(), range(4)))
    assert len(fetched) == len(set(fetched)) == len(list(folder.glob("*.array_record")))


def test_an_interrupted_copy_is_not_used(store, monkeypatch):
    write_dataset(FOLDER, RECORDS)

    def broken(path, local):
        local.write_bytes(store.get(str(path).removeprefix("gs://"))[1][:-10])

    with monkeypatch.context() as patch:
        patch.setattr(local_copy, "fetch", broken)
        with pytest.raises(UserError, match="ended early"):
            copied()
    assert len(read_copies()) == len(RECORDS)


def test_shards_that_cannot_be_copied_are_a_user_error(store, monkeypatch):
    write_dataset(FOLDER, RECORDS)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(UserError, match=r"0\.0 GB are free; free space, or mount the bucket"):
            copied()
    store.delete("bucket/data/records-004x004.array_record")
    with pytest.raises(UserError, match=r"records-004x004\.array_record is missing"):
        copied()


def test_a_data_set_is_made_and_resumed_with_stale_listings(store, tmp_path, rows, models):  # noqa: F811
    inputs = [listed(tmp_path, rows)]

    def run(output):
        return precompute(
            inputs, output, SETTINGS, models.load, chunk_size=2, batch_size=BATCH, threads=1
        )

    store.freeze_listings()  # nothing that this test makes is ever listed
    models.fail_after = 7
    with pytest.raises(KeyboardInterrupt):
        run(FOLDER)
    done = [name for name in store.names if name.endswith(".json")]
    assert 0 < len(done) < 4
    # No manifest without its shards, and no file of the interrupted chunk.
    for name in done:
        for shard in read_manifest(f"gs://{name}").shards:
            assert f"bucket/data/{shard.file}" in store.names
    assert {n.split("-")[2] for n in store.names} == {n.split("-")[2] for n in done}
    models.fail_after, before = 10**9, len(models.texts)
    there = list(store.puts)
    assert run(FOLDER).missing == 0
    assert not set(store.puts[len(there) :]) & set(there)  # complete chunks are not written again
    assert len(models.texts) > before

    outcome = run(tmp_path / "out")
    assert read_manifest(f"{FOLDER}/{MANIFEST}") == outcome.manifest
    shutil.copy(folder_manifest(), copied() / MANIFEST)
    a, b = read_all(tmp_path / "out"), read_all(copied())
    assert a.keys() == b.keys()
    assert all(a[i].target.tobytes() == b[i].target.tobytes() for i in a)


def test_deleted_files_in_listings_are_ignored(store, tmp_path, rows, models):  # noqa: F811
    def run(settings):
        inputs = [listed(tmp_path, rows)]
        return precompute(inputs, FOLDER, settings, models.load, batch_size=BATCH, threads=1)

    run(SETTINGS)
    with pytest.raises(UserError, match="made with size=64, now it is 128"):
        run(SETTINGS | {"size": 128})
    store.freeze_listings()
    for name in store.names:
        store.delete(name)
    assert run(SETTINGS | {"size": 128}).missing == 0
