import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import threading
import time

import pytest

from step1x_jax.data import parquet
from step1x_jax.data.chunks import Input
from step1x_jax.data.precompute import precompute
from step1x_jax.data.sources import read_picture, read_triplets, stamp_picture
from step1x_jax.errors import UserError
from tests.data.public_sets import SETS, picture, save_pictures
from tests.data.test_precompute import BATCH, SETTINGS, FakeModels, read_all

pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
pytestmark = pytest.mark.parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # Hugging Face's Image


def write(path, rows, group=1, **types):
    """Write a file with `group` rows per row group; `types` has types that pyarrow cannot infer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=group)
    return path


def in_cells(row, cell):
    """Return a row of public_sets.py with pictures in place of their names."""

    def change(value):
        if isinstance(value, list):
            return [change(item) for item in value]
        is_name = isinstance(value, str) and value.endswith(".png")
        return cell(picture(int(value.removesuffix(".png")))) if is_name else value

    return {name: change(value) for name, value in row.items()}


def edits(count):
    """Make rows of our own schema; row i has pictures 2 i and 2 i + 1."""
    return [
        {
            "source": {"bytes": picture(2 * i), "path": None},
            "target": {"bytes": picture(2 * i + 1), "path": f"{i}.png"},
            "instruction": f"edit {i}",
        }
        for i in range(count)
    ]


@pytest.fixture
def reads(monkeypatch):
    """Count how often each column of each row group is read."""
    counts = collections.Counter()
    real, lock = parquet._read_column, threading.Lock()

    def counting(path, number, name):
        with lock:
            counts[number, name] += 1
        return real(path, number, name)

    monkeypatch.setattr(parquet, "_read_column", counting)
    return counts


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("cell", ["struct", "binary"])
def test_the_public_sets(tmp_path, name, cell):
    rows, expected = SETS[name]
    rows = [{**rows[1], **row} for row in rows]  # all columns in each
    make = (lambda data: {"bytes": data, "path": "x.png"}) if cell == "struct" else bytes
    path = write(tmp_path / "train-0001.parquet", [in_cells(row, make) for row in rows])
    (first, row), bad = read_triplets(path)
    assert not bad
    assert (first.row, row.row) == ("train-0001.parquet row 0", "train-0001.parquet row 1")
    assert row.folder == str(tmp_path)
    assert row.source.startswith("train-0001.parquet#1#")
    assert dataclasses.astuple(row)[4:] == (*expected[2:5], expected[5] or row.row)
    pictures = [p for r in (first, row) for p in (r.source_path, r.target_path)]
    assert [read_picture(p) for p in pictures] == [picture(i) for i in range(4)]
    assert {stamp_picture(p)[0] for p in pictures} == {path.stat().st_size}


@pytest.mark.parametrize("name", SETS)
def test_columns_of_paths(tmp_path, name):
    rows, expected = SETS[name]
    save_pictures(tmp_path, [f"{i}.png" for i in range(4)])
    (_, row), bad = read_triplets(write(tmp_path / "a.parquet", [{**rows[1], **r} for r in rows]))
    assert not bad
    assert (row.source, row.target, row.instruction) == expected[:3]
    assert read_picture(row.source_path) == picture(2)


def test_cells_with_only_a_path(tmp_path):
    save_pictures(tmp_path / "pictures", ["a.png"])
    row = edits(1)[0] | {"source": {"bytes": None, "path": "pictures/a.png"}}
    ((row,), _) = read_triplets(write(tmp_path / "a.parquet", [row], source=IMAGE))
    assert read_picture(row.source_path) == picture(0)
    (tmp_path / "pictures" / "a.png").unlink()
    with pytest.raises(UserError, match=r"pictures/a\.png cannot be read"):
        read_picture(row.source_path)


def test_a_folder_of_files(tmp_path):
    rows = edits(6)
    write(tmp_path / "b.parquet", rows[:1])
    write(tmp_path / "a" / "2.parquet", rows[1:3])
    write(tmp_path / "a" / "1.parquet", rows[3:])
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"source": 1}))
    triplets, bad = read_triplets(tmp_path)
    assert not bad
    assert [row.row for row in triplets] == [
        *(f"a/1.parquet row {i}" for i in range(3)),
        *(f"a/2.parquet row {i}" for i in range(2)),
        "b.parquet row 0",
    ]
    order = [3, 4, 5, 1, 2, 0]
    assert [row.instruction for row in triplets] == [f"edit {i}" for i in order]
    assert [read_picture(row.source_path) for row in triplets] == [picture(2 * i) for i in order]


def test_listing_does_not_read_pictures(tmp_path, monkeypatch):
    columns = []
    real = pq.ParquetFile.iter_batches

    def noting(self, *arguments, **options):
        columns.extend(options["columns"])
        return real(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    rows = [row | {"task": "hue", "other": 3, "mask": b"x"} for row in edits(3)]
    assert len(read_triplets(write(tmp_path / "a.parquet", rows))[0]) == 3
    assert columns == ["instruction", "task"]


def test_bad_rows_are_named_and_the_others_are_read(tmp_path):
    rows = edits(3)
    rows[1]["instruction"] = None
    good, bad = read_triplets(write(tmp_path / "a.parquet", rows))
    assert [row.instruction for row in good] == ["edit 0", "edit 2"]
    assert read_picture(good[1].target_path) == picture(5)
    assert [(row.row, row.reason) for row in bad] == [("a.parquet row 1", "instruction is missing")]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "has no picture in source"),
        ({"bytes": None, "path": None}, "has no picture in source"),
        ({"bytes": None, "path": ""}, "has no picture in source"),
    ],
)
def test_missing_pictures_are_named(tmp_path, cell, message):
    rows = edits(3)
    rows[1]["source"] = cell
    triplets, _ = read_triplets(write(tmp_path / "a.parquet", rows, source=IMAGE))
    assert read_picture(triplets[0].source_path) == picture(0)
    with pytest.raises(UserError, match=rf"a\.parquet row 1 {message}"):
        read_picture(triplets[1].source_path)


def test_several_pictures_are_named(tmp_path):
    rows = [in_cells(row, lambda data: {"bytes": data, "path": None}) for row in SETS["ImgEdit"][0]]
    rows[1]["input_images"] *= 2
    triplets, _ = read_triplets(write(tmp_path / "a.parquet", rows))
    assert read_picture(triplets[0].source_path) == picture(0)
    with pytest.raises(UserError, match=r"a\.parquet row 1 has 2 pictures in input_images, not"):
        read_picture(triplets[1].source_path)
    # Paths, unlike pictures in cells, are checked while listing.
    rows = [{**SETS["ImgEdit"][0][0], "input_images": ["0.png", "1.png"]}]
    good, bad = read_triplets(write(tmp_path / "b.parquet", rows))
    assert not good
    assert bad[0].reason == "input_images has 2 pictures, not one"


def test_unknown_columns_are_refused_with_the_known_ones(tmp_path):
    row = {"source": "a.png", "after": "b.png", "edit": "x"}
    with pytest.raises(
        UserError, match=r"a\.parquet has the columns source, after, edit;"
    ) as error:
        read_triplets(write(tmp_path / "a.parquet", [row]))
    for name in ("source, target, instruction", *list(SETS)[1:]):
        assert name in str(error.value)


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", edits(400), group=200)
    triplets, _ = read_triplets(path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"a\.parquet is damaged"):
        read_triplets(path)
    with pytest.raises(UserError, match=r"a\.parquet row 0 is damaged"):
        read_picture(triplets[0].source_path)
    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])  # zeros in the first group
    parquet.clear_cache()
    with pytest.raises(UserError, match=r"a\.parquet row 0 is damaged"):
        read_picture(triplets[0].source_path)
    assert read_picture(triplets[399].target_path) == picture(799)
    path.unlink()
    parquet.clear_cache()
    with pytest.raises(UserError, match=r"a\.parquet row 3 cannot be read \(No such file"):
        read_picture(triplets[3].source_path)


def test_a_file_that_was_replaced(tmp_path):
    path = write(tmp_path / "a.parquet", edits(9), group=2)
    triplets, _ = read_triplets(path)
    lengths = {stamp_picture(row.source_path)[0] for row in triplets}
    assert read_picture(triplets[0].source_path) == picture(0)
    rows = [{**row, "source": {"bytes": b"new", "path": None}} for row in edits(4)]
    read_triplets(write(path, rows))
    assert read_picture(triplets[0].source_path) == b"new"
    assert lengths != {stamp_picture(triplets[0].source_path)[0]} == {path.stat().st_size}
    with pytest.raises(UserError, match=r"row 4 does not exist, the file has 4 rows now"):
        read_picture(triplets[4].source_path)
    with pytest.raises(UserError, match=r"no longer has a column mask"):
        read_picture(triplets[0].source_path.replace("source", "mask"))


def test_many_threads_get_the_right_pictures_and_read_few_groups(tmp_path, reads):
    triplets, _ = read_triplets(write(tmp_path / "a.parquet", edits(320), group=20))
    expected = [(picture(2 * i), picture(2 * i + 1)) for i in range(320)]

    def read(row):
        return read_picture(row.source_path), read_picture(row.target_path)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        # In any order; threads may be any number of groups apart.
        assert list(pool.map(read, triplets[::7] + triplets)) == expected[::7] + expected
        parquet.clear_cache()
        reads.clear()
        # 16 rows at a time, as a loader reads a list.
        windows = [triplets[start : start + 16] for start in range(0, 320, 16)]
        assert [pair for window in windows for pair in pool.map(read, window)] == expected
    assert set(reads) == {(i, name) for i in range(16) for name in ("source", "target")}
    # 16 rows are in at most two groups, which are both cached; 20 rows are in two windows.
    assert max(reads.values()) <= 2


def test_a_group_requested_by_many_threads_at_once_is_read_once(tmp_path, reads, monkeypatch):
    class SlowGroup(parquet._Group):
        def __init__(self, *arguments):
            time.sleep(0.01)  # the other threads arrive meanwhile
            super().__init__(*arguments)

    monkeypatch.setattr(parquet, "_Group", SlowGroup)
    triplets, _ = read_triplets(write(tmp_path / "a.parquet", edits(16), group=16))
    barrier = threading.Barrier(16)

    def read(row):
        barrier.wait()
        return read_picture(row.source_path)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, triplets)) == [picture(2 * i) for i in range(16)]
    assert reads == {(0, "source"): 1}


def test_two_groups_are_cached(tmp_path, reads):
    triplets, _ = read_triplets(write(tmp_path / "a.parquet", edits(3)))
    for i in (0, 1, 0, 1, 2, 1, 0):
        assert read_picture(triplets[i].source_path) == picture(2 * i)
    assert reads == {(0, "source"): 2, (1, "source"): 1, (2, "source"): 1}


def test_records_from_a_parquet_folder(tmp_path):
    write(tmp_path / "data" / "a.parquet", edits(3), group=2)
    inputs = [Input("data", *read_triplets(tmp_path / "data"))]
    outcome = precompute(inputs, tmp_path / "out", SETTINGS, FakeModels().load, batch_size=BATCH)
    assert outcome.manifest.records == 3
    for row, record in read_all(tmp_path / "out").items():
        number = int(row.split()[-1])
        assert record.instruction == f"edit {number}"
        assert record.source_hash == hashlib.sha256(picture(2 * number)).hexdigest()
