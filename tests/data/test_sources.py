import json

import pytest

from step1x_jax.data.sources import read_triplets
from step1x_jax.errors import UserError

ROW = {"source": "a.png", "target": "b/c.png", "instruction": "do it"}


def write(path, *rows, lines=True):
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.json"])
def test_rows_from_lines_and_lists(tmp_path, name):
    rows = [ROW, {**ROW, "instruction": "", "language": "zh", "task": "hue", "id": 0}]
    path = write(tmp_path / name, *rows, lines=name.endswith("l"))
    (first, second), bad = read_triplets(path)
    assert not bad
    assert first.source_path == str(tmp_path / "a.png")
    assert first.target_path == str(tmp_path / "b/c.png")
    assert (first.instruction, first.language, first.task) == ("do it", "", "")
    assert first.id == first.row == f"{name} {'line' if name.endswith('l') else 'row'} 1"
    assert (second.instruction, second.language, second.task, second.id) == ("", "zh", "hue", "0")


def test_the_published_layout(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"t/1.png": {"ref_image_path": "/s/1.png", "caption": "变红"}}))
    (row,), bad = read_triplets(path)
    assert not bad
    assert row.target_path == str(tmp_path / "t/1.png")
    assert row.source_path == "/s/1.png"
    assert (row.instruction, row.id) == ("变红", "t/1.png")


def test_bad_rows_are_named_and_the_rest_stays(tmp_path):
    path = tmp_path / "edits.jsonl"
    lines = ["{", "3", "", '{"source": "a"}', '{"source": 1}', json.dumps(ROW)]
    lines.append(json.dumps({**ROW, "instruction": "\ud800"}))
    path.write_text("\n".join(lines))
    good, bad = read_triplets(path)
    assert [row.row for row in good] == ["edits.jsonl line 6"]
    assert [(row.row.split()[-1], row.reason) for row in bad[:4]] == [
        ("1", "not a JSON object"),
        ("2", "not a JSON object"),
        ("4", "target is missing"),
        ("5", "source is not a text"),
    ]
    assert "not valid Unicode" in bad[4].reason
    path = tmp_path / "published.json"
    path.write_text('{"t.png": "s.png", "u.png": {"caption": "x"}}')
    assert [row.reason for row in read_triplets(path)[1]] == [
        "not a JSON object",
        "source is missing",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist"),
        ("edits.csv", b"a,b", r"is no file of edits that ends in \.jsonl or"),
        ("edits.jsonl", b"\n\n", "has no rows"),
        ("edits.json", b"{}", "has no rows"),
        ("edits.json", b"3", "should hold"),
        ("edits.json", b"{", "not valid JSON"),
        ("edits.json", b"\xff\xfe", "UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_triplets(tmp_path / name)
    assert name in str(error.value)
