"""Benchmarks from disk: what is read, when, and what is refused."""

import dataclasses
import json
import sys

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, GEDIT_V2, IMGEDIT
from step1x_jax.evaluation.datasets import find_source, read_samples
from tests.evaluation.toy import (
    picture,
    png,
    toy_rows,
    toy_samples,
    write_listed,
    write_parquet,
    write_saved,
)

needs_pyarrow = pytest.mark.evaluation


def contents(samples):
    """All that samples say, pictures read."""
    return [
        dataclasses.replace(one, pictures={name: read() for name, read in one.pictures.items()})
        for one in samples
    ]


def pyarrow():
    return pytest.importorskip("pyarrow", reason="needs the extra [evaluation]")


def as_saved(folder, rows):
    pyarrow()
    return write_saved(folder, rows)


def as_split(folder, rows):
    return as_saved(folder, rows) / "train"


def as_stream(folder, rows):
    pyarrow()
    return write_saved(folder, rows, shards=1) / "train/data-00000-of-00001.arrow"


def as_arrow_file(folder, rows):
    """The file format, which other programs write."""
    pa = pyarrow()
    folder.mkdir()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(str(folder / "all.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "cache-0123.arrow").write_bytes(b"what datasets derived from it")
    return folder


def as_parquet(folder, rows):
    pyarrow()
    return write_parquet(folder / "data/train-00000-of-00001.parquet", rows)


def as_folder_of_parquet(folder, rows):
    pyarrow()
    for part in range(2):
        write_parquet(folder / f"data/train-0000{part}-of-00002.parquet", rows[part::2])
    return folder


def as_list(folder, rows):
    return write_listed(folder, rows)


FORMS = [
    as_list,
    *(
        pytest.param(form, marks=needs_pyarrow)
        for form in (
            as_saved, as_split, as_stream, as_arrow_file, as_parquet, as_folder_of_parquet
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(tmp_path, form):
    found = contents(read_samples(form(tmp_path / "toy", toy_rows()), GEDIT))
    expected = contents(toy_samples())
    if form is as_folder_of_parquet:  # files one after another
        expected = expected[::2] + expected[1::2]
    assert found == expected


@needs_pyarrow
def test_pictures_are_read_when_they_are_asked_for(tmp_path):
    """What a cell says stays as it is: bytes, or a path in the data set's folder."""
    pyarrow()
    rows = toy_rows(1, GEDIT.tasks[:1])
    rows[0]["input_image"] = {"bytes": b"no picture", "path": None}
    rows[0]["input_image_raw"] = {"bytes": None, "path": "raw/a.png"}
    rows[1]["input_image"] = {"bytes": None, "path": "../../secret.png"}
    rows[1]["input_image_raw"] = {"bytes": None, "path": None}
    folder = write_saved(tmp_path / "set", rows)
    (tmp_path / "secret.png").write_bytes(png(picture("secret")))
    first, second = read_samples(folder, GEDIT)
    assert first.pictures["input_image"]() == b"no picture"
    with pytest.raises(UserError, match=r"raw/a\.png cannot be read"):
        first.pictures["input_image_raw"]()
    (folder / "train/raw").mkdir()
    (folder / "train/raw/a.png").write_bytes(png(picture("a")))
    assert first.pictures["input_image_raw"]() == png(picture("a"))
    with pytest.raises(UserError, match="outside its folder"):
        second.pictures["input_image"]()
    with pytest.raises(UserError, match="has no picture"):
        second.pictures["input_image_raw"]()


def test_lists_lead_nowhere_else(tmp_path):
    for path in ("../a.png", "/etc/passwd", "https://x/a.png", "", 3, None):
        rows = toy_rows(1, GEDIT.tasks[:1], ["en"])
        rows[0]["input_image"] = path
        folder = write_listed(tmp_path / f"{len(list(tmp_path.iterdir()))}", rows)
        with pytest.raises(UserError, match="input_image: "):
            read_samples(folder, GEDIT)


def changed(tmp_path, change, benchmark=GEDIT, **options):
    """The message on a data set whose rows were changed."""
    rows = toy_rows()
    change(rows)
    folder = write_listed(tmp_path / f"{len(list(tmp_path.iterdir()))}", rows)
    with pytest.raises(UserError) as error:
        read_samples(folder, benchmark, **options)
    return str(error.value)


def setting(field, value, *numbers):
    def change(rows):
        for number in numbers or range(len(rows)):
            rows[number][field] = value

    return change


def renaming(old, new):
    def change(rows):
        for row in rows:
            row[new] = row.pop(old)

    return change


def test_what_is_found_instead_is_told(tmp_path):
    message = changed(tmp_path, renaming("task_type", "kind"))
    assert "has the columns key, instruction" in message
    assert "kind" in message
    assert "task_type is missing" in message
    message = changed(tmp_path, renaming("input_image_raw", "raw"))
    assert "input_image_raw is missing" in message
    message = changed(tmp_path, setting("task_type", "colour", 0, 5, 7))
    assert "the tasks colour (3 rows), which are not among background_change, color" in message
    message = changed(tmp_path, setting("instruction_language", "fr", 1, 2))
    assert "the languages fr (2 rows), which are not among en, cn" in message
    message = changed(tmp_path, setting("instruction", " ", 2))
    assert "metadata.jsonl line 3: instruction is ' ', not a text" in message
    message = changed(tmp_path, setting("Intersection_exist", "yes"))
    assert "Intersection_exist is 'yes', not true or false" in message
    assert "and 41 more" in message
    rows = toy_rows()
    message = changed(tmp_path, setting("key", rows[0]["key"]))
    assert f"more than one row of background_change/en/{rows[0]['key']}" in message


@pytest.mark.parametrize("key", ["", "a/b", "..", ".a", "a\\b", "a\0b", "x" * 300, "a:b", None])
def test_keys_that_are_no_file_names(tmp_path, key):
    assert "key is " in changed(tmp_path, setting("key", key, 4))


def test_zh_is_cn(tmp_path):
    rows = toy_rows()
    for row in rows:
        row["instruction_language"] = {"en": "en", "cn": "zh"}[row["instruction_language"]]
    folder = write_listed(tmp_path / "toy", rows)
    assert contents(read_samples(folder, GEDIT)) == contents(toy_samples())
    assert {one.id.language for one in read_samples(folder, GEDIT, languages=["zh"])} == {"cn"}


def test_selection(tmp_path):
    folder = write_listed(tmp_path / "toy", toy_rows())
    every = read_samples(folder, GEDIT)
    found = read_samples(folder, GEDIT, tasks=["ps_human", "text_change"], languages=["en"])
    assert [one.id for one in found] == [
        one.id
        for one in every
        if one.id.task in ("ps_human", "text_change") and one.id.language == "en"
    ]
    for options, word in (
        ({"tasks": ["humans"]}, "--tasks=humans: .* has no humans; it has background_change"),
        ({"languages": ["fr"]}, "--languages=fr: .* has no fr; it has en, cn"),
        ({"source": "input"}, "is none of gedit; give one of input_image, input_image_raw"),
        ({"limit": 0}, "--limit=0"),
    ):
        with pytest.raises(UserError, match=word):
            read_samples(folder, GEDIT, **options)


def test_a_limit_is_spread_over_tasks_and_languages(tmp_path):
    folder = write_listed(tmp_path / "toy", toy_rows(3))
    for limit, tasks, languages in ((5, 5, 1), (11, 11, 1), (22, 11, 2), (30, 11, 2)):
        ids = [one.id for one in read_samples(folder, GEDIT, limit=limit)]
        assert len(ids) == limit
        assert (len({i.task for i in ids}), len({i.language for i in ids})) == (tasks, languages)
    every = [one.id for one in read_samples(folder, GEDIT)]
    assert [one.id for one in read_samples(folder, GEDIT, limit=999)] == every
    chosen = [one.id for one in read_samples(folder, GEDIT, limit=30)]
    assert chosen == [one for one in every if one in chosen]  # in the data set's order


def test_only_the_wanted_source_has_to_be_there(tmp_path):
    rows = toy_rows(1)
    for row in rows:
        del row["input_image_raw"]
    folder = write_listed(tmp_path / "toy", rows)
    (first, *_) = read_samples(folder, GEDIT, source="input_image")
    assert set(first.pictures) == {"input_image"}
    assert find_source(GEDIT, None) == "input_image"


def test_benchmarks_without_languages_and_with_other_columns(tmp_path):
    rows = [
        {"key": f"text_00000{n}", "task": "text", "instruction": "x", "note": "n",
         "source_image": row["input_image"]}
        for n, row in enumerate(toy_rows(1)[:3])
    ]  # fmt: skip
    folder = write_listed(tmp_path / "v2", rows)
    samples = read_samples(folder, GEDIT_V2)
    assert [one.id for one in samples] == [("text", "", f"text_00000{n}") for n in range(3)]
    assert {one.intersection for one in samples} == {None}
    assert samples[0].extra == {"note": "n"}
    with pytest.raises(UserError, match="has no en; it has none"):
        read_samples(folder, GEDIT_V2, languages=["en"])
    rows[1] |= {"key": rows[0]["key"], "task": "other"}  # one file for both
    with pytest.raises(UserError, match="more than one row of text_000000"):
        read_samples(write_listed(tmp_path / "twice", rows), GEDIT_V2)
    rows = [
        {"id": n, "edit_type": "add", "prompt": "x", "image": row["input_image"]}
        for n, row in enumerate(toy_rows(1)[:3])
    ]
    samples = read_samples(write_listed(tmp_path / "imgedit", rows), IMGEDIT)
    assert [one.id.key for one in samples] == ["0", "1", "2"]


def test_places_without_a_data_set(tmp_path):
    for make, word in (
        (lambda place: None, "does not exist"),
        (lambda place: place.mkdir(), "has no data set in it"),
        (lambda place: place.write_text("x"), "is no folder or file"),
    ):
        place = tmp_path / f"{word.replace(' ', '')}"
        make(place)
        with pytest.raises(UserError, match=word):
            read_samples(place, GEDIT)
    (tmp_path / "isnofolderorfile").unlink()
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no rows"):
        read_samples(tmp_path / "empty.jsonl", GEDIT)
    with pytest.raises(UserError, match="has no data set in it"):
        read_samples(tmp_path, GEDIT)  # a list in a folder is called metadata.jsonl
    (tmp_path / "odd.jsonl").write_text("[1]\n{\n")
    with pytest.raises(UserError, match=r"line 1: not a JSON object; .*line 2: not a JSON object"):
        read_samples(tmp_path / "odd.jsonl", GEDIT)


def test_splits(tmp_path):
    folder = tmp_path / "saved"
    write_listed(folder / "train", toy_rows(1))
    for splits, word in ((["train", "test"], "give the folder of one"), (["../x"], "splits"),
                         ("train", "splits"), ([], "splits")):  # fmt: skip
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(UserError, match=word):
            read_samples(folder, GEDIT)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    assert len(read_samples(folder, GEDIT)) == 22


def test_without_pyarrow_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="needs pyarrow: pip install"):
        read_samples(tmp_path, GEDIT)


@needs_pyarrow
def test_damaged_tables_are_told(tmp_path):
    pyarrow()
    for name in ("a.parquet", "a.arrow"):
        place = tmp_path / name[2:]
        place.mkdir()
        (place / name).write_bytes(b"PAR1 nothing")
        with pytest.raises(UserError, match="is damaged"):
            read_samples(place, GEDIT)
