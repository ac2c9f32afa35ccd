"""Judgements on disk."""

import json

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.judgement_files import (
    find_judges,
    judge_folder,
    read_judgements,
    write_judgements,
)
from step1x_jax.evaluation.names import is_name
from tests.evaluation.scores import FACTS, drawn, judgement, without


def test_what_is_written_is_read(tmp_path):
    judgements = [*drawn(0, repeats=2), without("ps_human", "refused", "ключ", "cn")]
    folder = judge_folder(tmp_path / "mine", "gpt-4.1")
    assert find_judges(tmp_path / "mine") == []
    write_judgements(folder, judgements, FACTS)
    assert read_judgements(folder) == (judgements, FACTS)
    write_judgements(folder, judgements[:1], FACTS | {"date": "later"})
    assert read_judgements(folder) == (judgements[:1], FACTS | {"date": "later"})
    (tmp_path / "mine/judgements/half").mkdir()  # a judge that has not ended
    assert find_judges(tmp_path / "mine") == ["gpt-4.1"]


LINE = '{"id": ["ps_human", "en", "0"], "status": "ok", "scores": {"quality": [1.0]}}'


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (LINE.replace("1.0", "NaN"), "line 2 is not valid JSON"),
        (LINE.replace("1.0", "1e999"), r"line 2: scores\.quality\[0\] is inf|not valid JSON"),
        (LINE.replace("ok", "fine"), "line 2: status is 'fine'"),
        (LINE.replace('"0"]', "0]"), "line 2: id"),
        (LINE.replace("}}", '}, "score": 1}'), "line 2: unknown field score"),
        (LINE.replace('"0"', '"1"'), "line 2 judges ps_human/en/1 for a second time"),
        ("", "line 2 is not valid JSON"),
    ],
)
def test_lines_are_read_strictly(tmp_path, line, word):
    write_judgements(tmp_path, [judgement("ps_human", [1], [1], "1")], FACTS)
    with (tmp_path / "judgements.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=word):
        read_judgements(tmp_path)


def test_both_files_have_to_be_there(tmp_path):
    with pytest.raises(UserError, match=r"judge\.json does not exist"):
        read_judgements(tmp_path)
    (tmp_path / "judge.json").write_text(json.dumps(FACTS))
    with pytest.raises(UserError, match=r"judgements\.jsonl cannot be read"):
        read_judgements(tmp_path)
    with pytest.raises(UserError, match="the judge's name"):
        judge_folder(tmp_path, "org/model")


def test_names_that_every_file_system_has():
    assert all(map(is_name, ("gpt-4.1", "a_b c", "ключ", "text_000001", "subject-add", "a" * 200)))
    bad = (
        "",
        ".",
        "..",
        ".a",
        "a.",
        " a",
        "a ",
        "a/b",
        "a\\b",
        "a:b",
        "a*",
        "a\nb",
        "a\0",
        "\ud800",
    )
    assert not any(map(is_name, (*bad, "a" * 201, "字" * 67)))
