"""Unusual lists of edits: links, odd names and encodings, files that are not lists."""

import json
import os

import numpy as np
import pytest

from step1x_jax.data.manifest import MANIFEST, REJECTED, write_dataset
from step1x_jax.data.sources import read_picture, read_triplets
from step1x_jax.errors import UserError
from tests.data.examples import make_record
from tests.data.public_sets import picture, save_pictures
from tests.data.test_sources import ROW, write


def rows(count):
    return [ROW | {"source": f"{i}.png", "target": f"{i}.png", "id": f"e{i}"} for i in range(count)]


def ids(path):
    return [row.id for row in read_triplets(path)[0]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_endings(tmp_path, encoding, end):
    lines = [json.dumps(row | {"instruction": "变红"}, ensure_ascii=False) for row in rows(3)]
    path = tmp_path / "edits.jsonl"
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    triplets, bad = read_triplets(path)
    assert not bad
    assert [row.id for row in triplets] == ["e0", "e1", "e2"]
    assert triplets[0].instruction == "变红"
    (tmp_path / "edits.json").write_bytes(f"[{','.join(lines)}]".encode(encoding))
    assert ids(tmp_path / "edits.json") == ["e0", "e1", "e2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_other_encodings_are_refused(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    for name in ("edits.jsonl", "edits.json"):
        text = mark + json.dumps([ROW | {"instruction": "é"}], ensure_ascii=False)
        (tmp_path / name).write_bytes(text.encode(encoding))
        with pytest.raises(
            UserError, match="UTF-16 text; save" if "16" in encoding else "not UTF-8"
        ):
            read_triplets(tmp_path / name)


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.json"])
@pytest.mark.parametrize("field", ["id", "instruction", "source", "task", "of no schema"])
def test_only_the_row_with_a_lone_surrogate_is_left_out(tmp_path, name, field):
    some = rows(3)
    some[1][field] = "party \ud83c"
    write(tmp_path / name, *some, lines=name.endswith("l"))
    triplets, (bad,) = read_triplets(tmp_path / name)
    assert [row.id for row in triplets] == ["e0", "e2"]
    assert bad.row.endswith(" 2")
    assert "\\ud83c" in bad.reason or "surrogate" in bad.reason
    assert bad.reason.isprintable()


def test_a_lone_surrogate_in_the_published_layout(tmp_path):
    row = {"ref_image_path": "s.png", "caption": "x"}
    (tmp_path / "a.json").write_text(json.dumps({"\ud83c.png": row, "t.png": row}))
    (good,), (bad,) = read_triplets(tmp_path / "a.json")
    assert good.target == "t.png"
    assert bad.row == r"a.json \ud83c.png"


def test_nan_and_large_numbers_in_other_fields_are_ignored(tmp_path):
    """Lists written by pandas have NaN for missing values."""
    some = [row | {"score": float("nan"), "seed": 2**70} for row in rows(2)]
    for name in ("a.jsonl", "a.json"):
        assert ids(write(tmp_path / name, *some, lines=name.endswith("l"))) == ["e0", "e1"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": ' + "9" * 5000 + "}", '{"source": NaN}'])
def test_malicious_rows_are_left_out(tmp_path, text):
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join([text, json.dumps(ROW)]))
    triplets, (bad,) = read_triplets(path)
    assert len(triplets) == 1
    assert bad.row == "edits.jsonl line 1"
    assert len(bad.reason) < 300
    if not text.endswith("NaN}"):
        (tmp_path / "edits.json").write_text(f"[{text}]")
        with pytest.raises(UserError, match="not valid JSON"):
            read_triplets(tmp_path / "edits.json")


def test_links_to_folders_are_followed_and_cycles_terminate(tmp_path):
    own, elsewhere = tmp_path / "set" / "m", tmp_path / "elsewhere"
    for folder, name in ((own, "0.png"), (elsewhere / "deep", "1.png")):
        save_pictures(folder, [name])
        write(folder / "metadata.jsonl", rows(2)[int(name[0])])
    (elsewhere / "back").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set" / "link").symlink_to(elsewhere, target_is_directory=True)
    (tmp_path / "set" / "again").symlink_to(own, target_is_directory=True)
    (tmp_path / "set" / "nowhere").symlink_to(tmp_path / "gone")
    triplets, bad = read_triplets(tmp_path / "set")
    assert not bad
    # the folder is named by its own path, not by that of a link to it
    assert [row.row for row in triplets] == [
        "link/deep/metadata.jsonl line 1",
        "m/metadata.jsonl line 1",
    ]
    assert [read_picture(row.source_path) for row in triplets] == [picture(0), picture(0)]
    assert ids(f"{tmp_path}/set/") == ["e1", "e0"]


def test_folders_that_cannot_be_listed_are_named(tmp_path, monkeypatch):
    write(tmp_path / "edits.jsonl", ROW)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def no_rights(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", no_rights)
    triplets, (bad,) = read_triplets(tmp_path)
    assert len(triplets) == 1
    assert (bad.row, bad.reason) == ("closed", "this folder cannot be read (Permission denied)")


@pytest.mark.parametrize("name", [b"caf\xe9", b"[set] one", b"a*b?", "变红".encode(), b"new\nline"])
def test_folders_of_any_name(tmp_path, name):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.makedirs(folder + b"/0001")
    for file, number in (("11_0.jpg", 0), ("11_1.jpg", 1)):
        with open(folder + b"/0001/" + file.encode(), "wb") as stream:
            stream.write(picture(number))
    with open(folder + b"/0001/prompt.json", "w") as stream:
        json.dump({"edit": "Invert"}, stream)
    for given in (tmp_path, os.fsdecode(folder), os.fsdecode(folder) + "/"):
        (row,), bad = read_triplets(given)
        assert not bad
        assert read_picture(row.source_path) == picture(0)
        assert read_picture(row.target_path) == picture(1)
        row.id.encode()  # it is stored in the record as UTF-8
        row.row.encode()


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "edits.jsonl", ROW)
    assert len(read_triplets("~/edits.jsonl")[0]) == 1


@pytest.mark.parametrize("list_name", ["pairs.jsonl", "pairs.json"])
def test_files_written_by_precompute_are_not_lists(tmp_path, list_name):
    write(tmp_path / list_name, *rows(3), lines=list_name.endswith("l"))
    before = ids(tmp_path)
    manifest = write_dataset(tmp_path, [make_record(0)])
    (tmp_path / REJECTED).write_text('{"row": "x", "reason": "y"}\n')
    (tmp_path / "part-00-00000-0123456789ab.json").write_text(manifest.to_json())
    assert ids(tmp_path) == before == ["e0", "e1", "e2"]
    for name in (MANIFEST, REJECTED, "part-00-00000-0123456789ab.json"):
        with pytest.raises(UserError, match=r"written by launch\.precompute; give the list"):
            read_triplets(tmp_path / name)
    (tmp_path / list_name).unlink()
    with pytest.raises(UserError, match=r"launch\.precompute wrote there are not lists"):
        read_triplets(tmp_path)


def test_lists_of_the_user_may_have_the_same_names(tmp_path):
    write(tmp_path / MANIFEST, *rows(3), lines=False)
    assert ids(tmp_path) == ids(tmp_path / MANIFEST) == ["e0", "e1", "e2"]
    write(tmp_path / REJECTED, *rows(2))
    assert ids(tmp_path) == ids(tmp_path / REJECTED) == ["e0", "e1"]
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "state.json", *rows(1), lines=False)
    assert ids(tmp_path / "sub") == ["e0"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("iVBORw0KGgo" + "A" * 100, "source holds a picture itself (111 characters)"),
        ("/9j/" + "4" * 100_000, "source holds a picture itself (100004 characters)"),
        ("data:image/png;base64,AAAA", "source holds a picture itself"),
        ("http://a.org/b.png", "source is an address (http://), not a path"),
        ("file:///etc/passwd", "source is an address (file://), not a path"),
    ],
)
def test_pictures_and_addresses_in_place_of_paths_are_rejected(tmp_path, source, reason):
    path = write(tmp_path / "edits.jsonl", ROW | {"source": source}, ROW)
    triplets, (bad,) = read_triplets(path)
    assert len(triplets) == 1
    assert bad.reason.startswith(reason)
    assert len(bad.reason) < 200


def test_all_kinds_of_paths_are_accepted(tmp_path):
    for source in ("/9j/a.png", "../a.png", "/abs/a.png", "gs://bucket/a.png", "a" * 1000):
        assert len(read_triplets(write(tmp_path / "e.jsonl", ROW | {"source": source}))[0]) == 1


def test_pipes_are_not_lists(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="is not a file of edits"):
        read_triplets(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="contains no list of edits"):
        read_triplets(tmp_path)
    write(tmp_path / "b.jsonl", ROW)
    assert len(read_triplets(tmp_path)[0]) == 1


def test_a_list_in_another_folder_than_its_pictures(tmp_path):
    save_pictures(tmp_path / "pictures", ["0.png"])
    (tmp_path / "json").mkdir()
    path = write(tmp_path / "json" / "edits.jsonl", *rows(1))
    (row,), _ = read_triplets(path, root=tmp_path / "pictures")
    assert read_picture(row.source_path) == picture(0)


@pytest.mark.parquet
@pytest.mark.parametrize("cell", ["bytes", "path"])
def test_a_folder_of_save_to_disk(tmp_path, cell):
    """A folder as datasets writes it: arrow streams, and a state.json that lists them."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    folder = tmp_path / "saved" / "train"
    save_pictures(folder, [f"{i}.png" for i in range(6)])

    def column(numbers):
        one = {"bytes": None, "path": None}
        value = {"bytes": picture, "path": lambda i: f"{i}.png"}[cell]
        return [one | {cell: value(i)} for i in numbers]

    names = []
    for part in range(2):
        numbers = range(part * 2, part * 2 + 2)
        table = pa.table(
            {
                "source": pa.array(column(numbers)),
                "target": pa.array(column([i + 1 for i in numbers])),
                "instruction": [f"do {i}" for i in numbers],
            }
        )
        names.append(f"data-{part:05d}-of-00002.arrow")
        with pa.ipc.new_stream(str(folder / names[-1]), table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    triplets, bad = read_triplets(tmp_path / "saved")
    assert not bad
    assert [row.instruction for row in triplets] == ["do 0", "do 1", "do 2", "do 3"]
    assert triplets[2].row == f"train/state.json {names[1]} row 0"
    for i, row in enumerate(triplets):
        assert read_picture(row.source_path) == picture(i)
        assert read_picture(row.target_path) == picture(i + 1)

    (folder / names[0]).write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(UserError, match=rf"{names[0]} is damaged"):
        read_triplets(folder)
    for name in ("../a.arrow", 3, None):
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(UserError, match="does not list files of its folder"):
            read_triplets(folder)
    (folder / "state.json").unlink()
    with pytest.raises(UserError, match="contains no list of edits"):
        read_triplets(folder)


@pytest.mark.parquet
def test_a_picture_shared_by_many_rows_is_in_memory_once(tmp_path):
    """Otherwise a file of 2 MB would take 12 GB."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    large, count = np.random.default_rng(0).bytes(1 << 20), 500
    table = pa.table(
        {
            "source": pa.array([large] * count),
            "target": pa.array([{"bytes": large, "path": None}] * count),
            "instruction": ["x" * 1000] * count,
        }
    )
    pq.write_table(table, path, dictionary_pagesize_limit=4 << 20)
    del table
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    triplets, _ = read_triplets(path)
    assert triplets[0].instruction is triplets[-1].instruction
    for row in (triplets[0], triplets[-1]):
        assert read_picture(row.source_path) == read_picture(row.target_path) == large
    assert pool.bytes_allocated() - before < 20 << 20


@pytest.mark.parquet
def test_only_the_row_with_invalid_unicode_is_left_out(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    pq = pytest.importorskip("pyarrow.parquet")
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    )
    table = pa.table({"source": ["s", "s"], "target": ["t", "t"], "instruction": broken})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    (good,), (bad,) = read_triplets(tmp_path / "a.parquet")
    assert good.instruction == "a"
    assert bad.row == "a.parquet row 1"
    assert "not valid Unicode" in bad.reason
