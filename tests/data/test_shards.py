import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from step1x_jax.data.manifest import (
    MANIFEST,
    VERSION,
    BadRow,
    Manifest,
    SourceInfo,
    read_manifest,
    records_fingerprint,
    write_dataset,
    write_manifest,
)
from step1x_jax.data.records import DamagedRecordError
from step1x_jax.data.shards import ShardInfo, ShardReader, open_shard_writer
from step1x_jax.errors import UserError
from tests.data.examples import assert_equal, make_record


def damage(path, record) -> None:
    """Flip a bit in a record's target latents."""
    data = bytearray(path.read_bytes())
    place = data.index(record.target.tobytes())
    data[place + 10] ^= 1
    path.write_bytes(data)


def test_records_are_written_to_the_shard_of_their_size(tmp_path):
    records = [make_record(i, size) for i, size in enumerate([(4, 4), (2, 6), (4, 4)])]
    manifest = write_dataset(tmp_path, records, {"size": 32})
    assert read_manifest(tmp_path / MANIFEST) == manifest
    assert manifest.settings == {"size": 32}
    assert manifest.records == 3
    assert list(manifest.buckets) == [(2, 6), (4, 4)]
    (small,), (large,) = manifest.buckets.values()
    assert small.longest_text == 5
    readers = [ShardReader(tmp_path, info) for info in (large, small, large)]
    assert [len(reader) for reader in readers] == [2, 1, 2]
    for reader, index, record in zip(readers, (0, 0, 1), records, strict=True):
        assert_equal(reader[index], record)
    assert len(list(tmp_path.iterdir())) == 3  # nothing left over


def test_a_failing_block_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), open_shard_writer(tmp_path, "x") as shards:
        shards.write(make_record(0))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # further writing fails
from step1x_jax.data.manifest import write_dataset
from step1x_jax.errors import UserError
from tests.data.examples import make_record
try:
    write_dataset(sys.argv[1], (make_record(i, (32, 32 + i % 2 * 2)) for i in range(20)))
except UserError as e:
    print(e)
"""


def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path):
    output = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(output)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert "free space" in done.stdout
    assert not list(output.iterdir())


def test_a_damaged_record_is_named_and_others_are_readable(tmp_path):
    records = [make_record(i) for i in range(3)]
    (info,) = write_dataset(tmp_path, records).shards
    damage(tmp_path / info.file, records[1])
    reader = ShardReader(tmp_path, info)
    with pytest.raises(DamagedRecordError, match=rf"{info.file}, record 1, is damaged"):
        reader[1]
    assert_equal(reader[0], records[0])
    assert_equal(reader[2], records[2])


def test_truncated_and_missing_shards_are_named(tmp_path):
    (info,) = write_dataset(tmp_path, [make_record(i, (32, 32)) for i in range(3)]).shards
    path = tmp_path / info.file
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(UserError, match=rf"{info.file} is damaged"):
        ShardReader(tmp_path, info)
    path.write_bytes(data[: len(data) // 2] + b"?" * (len(data) - len(data) // 2))
    with pytest.raises(UserError, match=rf"{info.file} has 0 readable records"):
        ShardReader(tmp_path, info)
    path.unlink()
    with pytest.raises(UserError, match=rf"{info.file} is missing"):
        ShardReader(tmp_path, info)


def test_an_unreadable_file_is_not_called_missing(tmp_path, monkeypatch):
    (info,) = write_dataset(tmp_path, [make_record(0)]).shards

    def no_rights(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", no_rights)
    with pytest.raises(UserError, match=r"could not be read .Permission denied") as error:
        ShardReader(tmp_path, info)
    assert "run launch.precompute" not in str(error.value)


def test_a_disk_error_while_reading_a_record_is_not_damage(tmp_path):
    """The open file is replaced by a folder, which cannot be read."""
    (info,) = write_dataset(tmp_path, [make_record(0)]).shards
    reader, path = ShardReader(tmp_path, info), str(tmp_path / info.file)
    (number,) = [n for n in os.listdir("/proc/self/fd") if is_open_as(n, path)]
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, int(number))
    os.close(folder)
    with pytest.raises(UserError, match="could not be read") as error:
        reader[0]
    assert not isinstance(error.value, DamagedRecordError)  # it must not be replaced by another


def is_open_as(number, path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}") == path
    except OSError:
        return False


def test_a_damaged_copy_of_an_object_is_to_be_copied_again(tmp_path):
    record = make_record(0)
    (info,) = write_dataset(tmp_path, [record]).shards
    (tmp_path / f"{info.file}.of").write_text("size=3")
    damage(tmp_path / info.file, record)
    with pytest.raises(DamagedRecordError, match="delete this copy, and it is copied again"):
        ShardReader(tmp_path, info)[0]


def test_a_shard_of_another_size_is_damage(tmp_path):
    (info,) = write_dataset(tmp_path, [make_record(0)]).shards
    with pytest.raises(DamagedRecordError, match="latents"):
        ShardReader(tmp_path, dataclasses.replace(info, latent_size=(6, 6)))[0]


def test_bad_manifests_are_named(tmp_path):
    path = tmp_path / MANIFEST
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        read_manifest(path)
    for text in ("{", "[]", '{"version": 2}', '{"version": null}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"dataset\.json is not as launch.precompute writes"):
            read_manifest(path)
    shard = ShardInfo("a", (2, 2), records=3, bytes=500)
    for manifest in (
        Manifest({}, [dataclasses.replace(shard, source=1)]),
        Manifest({}, [shard], sources=[SourceInfo("a", 1.0), SourceInfo("b", None)]),
        Manifest({}, [shard], sources=[SourceInfo("a", 0.0)]),
    ):
        write_manifest(path, manifest)
        with pytest.raises(UserError, match=r"dataset\.json is not as .*(source|weight)"):
            read_manifest(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"dataset\.json is no file"):
        read_manifest(path)
    path.unlink()
    write_manifest(path, Manifest({}, [], [BadRow("a", "b")], version=VERSION + 1))
    with pytest.raises(UserError, match=r"newer version.*upgrade"):
        read_manifest(path)


def _replace(name, value):
    return lambda values: values["shards"][0].update({name: value})


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "change",
    [
        _replace("records", "6"),
        _replace("records", -6),
        _replace("records", 0),
        _replace("records", 1e20),
        _replace("records", 10**400),
        _replace("records", 10**9),
        _replace("records", True),
        _replace("negatives", -1),
        _replace("negatives", 7),
        _replace("bytes", 1.5),
        _replace("longest_text", None),
        _replace("latent_size", [1.5, 2]),
        _replace("latent_size", [4]),
        _replace("latent_size", [4, 10**9]),
        _replace("latent_size", {"h": 4, "w": 4}),
        _replace("source", -1),
        _replace("file", 3),
        _replace("file", ""),
        _replace("file", ".."),
        _replace("file", "../records-004x004.array_record"),
        _replace("file", "/etc/passwd"),
        _replace("file", "gs://bucket/shard"),
        _replace("colour", "red"),
        lambda values: values.update(settings=[]),
        lambda values: values.update(settings=None),
        lambda values: values.update(shards={}),
        lambda values: values.update(shards=[3]),
        lambda values: values.update(sources=[]),
        lambda values: values.update(sources=[{"name": 3}]),
        lambda values: values.update(sources=[{"name": "a", "weight": "3"}]),
        lambda values: values.update(bad_rows=[{"row": 1, "reason": "x"}]),
        lambda values: values.update(version=2.0),
        lambda values: values.update(version=True),
        lambda values: values["shards"].append(values["shards"][0]),
        lambda values: values.pop("shards"),
        lambda values: values.pop("settings"),
        *(
            (lambda values, name=name: values["shards"][0].pop(name))
            for name in ("file", "latent_size", "records", "bytes", "longest_text", "negatives")
        ),
    ],
)
def test_tampered_manifests_are_a_user_error(tmp_path, change, version):
    values = json.loads(write_dataset(tmp_path, [make_record(i) for i in range(6)]).to_json())
    values["version"] = version
    if version == 2:
        del values["shards"][0]["digest"], values["shards"][0]["check"]
    change(values)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"dataset\.json is not as") as error:
        read_manifest(path)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"version": ' + "9" * 5000 + "}", '{"settings": NaN}', '"\\ud800"']
)
def test_malicious_json_is_a_user_error(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json is not as") as error:
        read_manifest(tmp_path / MANIFEST)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": 5}, "6 readable records, the manifest says 5"),
        ({"longest_text": 4}, "a text of 5 tokens, the manifest says 4"),
        ({"negatives": 0}, "the manifest says that 0 records"),
        ({"negatives": 6}, "the manifest says that 6 records"),
        ({"latent_size": (6, 6)}, "latents of"),
    ],
)
def test_counts_that_contradict_the_data_are_named(tmp_path, change, message):
    """Also in a manifest before version 3, which has no hash of its counts."""
    records = [make_record(i) for i in range(6)]
    for record in records[3:]:
        record.negative_text = None
    manifest = write_dataset(tmp_path, records)
    changed = dataclasses.replace(manifest.shards[0], **change)
    with pytest.raises(UserError, match=message):
        reader = ShardReader(tmp_path, changed)
        print([reader[i] for i in range(6)])
    values = json.loads(manifest.to_json())
    values["shards"][0] |= change
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"what it says of .* was changed"):
        read_manifest(tmp_path / MANIFEST)


def test_manifests_of_version_1_are_read(tmp_path):
    """They had no sources, and every record had a negative embedding."""
    values = json.loads(write_dataset(tmp_path, [make_record(0), make_record(1)]).to_json())
    del values["sources"], values["version"]
    for shard in values["shards"]:
        del shard["source"], shard["negatives"], shard["digest"], shard["check"]
    (tmp_path / MANIFEST).write_text(json.dumps(values | {"schema_version": 1}))
    manifest = read_manifest(tmp_path / MANIFEST)
    assert [shard.negatives for shard in manifest.shards] == [2]
    assert manifest.sources == [SourceInfo()]


def test_longest_text_covers_all_records_and_negatives(tmp_path):
    records = [make_record(i, tokens=tokens) for i, tokens in enumerate((4, 9, 5))]
    assert write_dataset(tmp_path / "texts", records).shards[0].longest_text == 9
    short = make_record(0, tokens=2)  # its negative has 3 tokens
    assert write_dataset(tmp_path / "negatives", [short]).shards[0].longest_text == 3


SAME = """
import sys
from step1x_jax.data.manifest import write_dataset
from tests.data.examples import make_record
write_dataset(sys.argv[1], [make_record(i, (2, 2 + i % 2 * 2)) for i in range(6)])
"""


@pytest.mark.slow
def test_the_same_records_are_the_same_bytes_in_every_process(tmp_path):
    contents = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SAME, str(folder)], env=environment, check=True)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


def test_the_fingerprint_depends_on_the_records_not_on_their_folder(tmp_path):
    records = [make_record(i, size) for i, size in enumerate([(4, 4), (2, 6), (4, 4)])]
    first = records_fingerprint(write_dataset(tmp_path / "a", records))
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    assert records_fingerprint(read_manifest(f"{tmp_path}/elsewhere/{MANIFEST}")) == first
    changed = dataclasses.replace(records[1], instruction=records[1].instruction[::-1])
    others = [
        [*records, make_record(7)],
        records[:2],
        [records[0], changed, records[2]],  # of the same size
        records[::-1],
    ]
    fingerprints = [
        records_fingerprint(write_dataset(tmp_path / str(i), other))
        for i, other in enumerate(others)
    ]
    assert len({first, *fingerprints}) == 5
    weighted = read_manifest(tmp_path / "a" / MANIFEST)
    weighted.sources[0].weight = 2.0
    assert records_fingerprint(weighted) == first


def test_manifests_without_digests_are_read_and_have_a_fingerprint(tmp_path):
    values = json.loads(write_dataset(tmp_path, [make_record(0)]).to_json())
    del values["shards"][0]["digest"], values["shards"][0]["check"]
    (tmp_path / MANIFEST).write_text(json.dumps(values | {"version": 2}))
    old = read_manifest(tmp_path / MANIFEST)
    assert old.shards[0].digest == ""
    more = dataclasses.replace(old, shards=[dataclasses.replace(old.shards[0], records=2)])
    assert records_fingerprint(old) != records_fingerprint(more)


def test_shards_are_written_by_a_user_without_a_name(tmp_path, monkeypatch):
    """Containers may run with a user id that has no name."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    (shard,) = write_dataset(tmp_path, [make_record(1)]).shards
    assert shard.bytes == os.path.getsize(tmp_path / shard.file)
    assert_equal(ShardReader(tmp_path, shard)[0], make_record(1))
