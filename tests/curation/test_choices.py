"""What is chosen without pictures: examples, groups to hold out, verdicts."""

import pytest

from step1x_jax.curation import sheet
from step1x_jax.curation.export import choose_held_out, split_of
from step1x_jax.curation.review import read_verdicts
from step1x_jax.errors import UserError


def test_the_choice_of_examples_goes_round():
    rows = [
        {"id": f"{c}{g}{i}", "category": c, "group": g}
        for c in "ab" for g in "xyz" for i in range(3)
    ]  # fmt: skip
    chosen = sheet.choose(rows, 4)
    assert [id[0] for id in chosen] == list("aaaabbbb")
    assert [id[1] for id in chosen[:4]] == list("xyzx")
    assert len(set(chosen)) == 8
    assert sheet.choose(rows, 4, seed=1) != chosen
    assert len(sheet.choose(rows, 100)) == 18


def test_a_sheet_of_nothing():
    assert sheet.draw([]).size == (1, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "id"),
        ('{"id": "a", "verdict": "maybe"}', "verdict"),
        ('{"id": "a", "verdict": "keep", "x": 1}', "unknown field x"),
        ('{"id": "a", "verdict": "reject", "reason": "ugly"}', "reason is 'ugly'"),
        ("nonsense", "not valid JSON"),
    ],
)
def test_verdicts_that_are_none(tmp_path, line, message):
    path = tmp_path / "verdicts.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        read_verdicts(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_verdicts(str(tmp_path / "none"))


def test_held_out_groups():
    names = [f"g{i}" for i in range(100)]
    chosen = choose_held_out(names, 0.1, 0)
    assert len(chosen) == 10
    assert choose_held_out(reversed(names), 0.1, 0) == chosen
    assert choose_held_out(names, 0.1, 1) != chosen
    assert len(choose_held_out(names[:3], 0.01, 0)) == 1
    assert choose_held_out(names[:1], 0.5, 0) == set()
    assert choose_held_out(names, 0, 0) == set()
    assert split_of({"groups": ["a", "b"]}, {"b"}) == "between"
    assert split_of({"groups": None, "group": "b"}, {"b"}) == "held_out"
    assert split_of({"groups": ["a"], "group": "b"}, {"b"}) == "train"
