"""Read lists of held-out edits: valid, missing and malformed."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.quickstart.held_out import read_held_out

ROW = {
    "photograph_sha256": "abc",
    "method": "plain/night",
    "language": "en",
    "instruction": "Make it night",
    "source": "pictures/a.png",
    "target": "pictures/b.png",
}


def write(folder, *rows):
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_languages_alternate_over_crops_and_kinds(tmp_path):
    rows = [
        ROW | {"photograph_sha256": crop, "method": f"plain/{kind}", "language": language}
        for crop in ("one", "two")
        for kind in ("night", "frame")
        for language in ("en", "cn")
    ]
    write(tmp_path, *rows)
    edits = read_held_out(tmp_path)
    assert [(e.crop, e.kind, e.language) for e in edits] == [
        ("one", "night", "en"),
        ("one", "frame", "cn"),
        ("two", "night", "cn"),
        ("two", "frame", "en"),
    ]
    assert edits[0].source == str(tmp_path / "pictures/a.png")


def test_no_list_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"is missing: run python -m launch\.curate export"):
        read_held_out(tmp_path)


@pytest.mark.parametrize("change", [{"method": None}, {"instruction": 3}, {"method": ...}])
def test_a_line_that_is_not_as_written_is_named(tmp_path, change):
    row = {**ROW, **change}
    write(tmp_path, ROW, {name: value for name, value in row.items() if value is not ...})
    with pytest.raises(UserError, match="line 2"):
        read_held_out(tmp_path)
