"""JSON from outside: strict, typed, bounded; what is wrong is one sentence."""

import dataclasses
import json
from typing import Annotated

import pytest
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, check_fields, parse_json, read_json, write_json


@dataclasses.dataclass
class Inner:
    depth: Annotated[int, Meta(ge=1, le=10)] = 3
    ratio: float = 1.0


@dataclasses.dataclass
class Outer:
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    sizes: tuple[int, ...] = ()
    shift: float | None = None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": Infinity}', "not valid JSON"),
        ('{"a": 1e999}', "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a": "\\ud83c"}', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("", "not valid JSON"),
        (b'{"a": "\xe9"}', "not valid JSON"),
        ("\ud83c", "not valid JSON"),
    ],
)
def test_what_is_no_json_is_one_sentence(text, message):
    with pytest.raises(UserError, match=message) as e:
        parse_json(text, "the file")
    assert str(e.value).startswith("the file is ")
    assert len(str(e.value)) < 300


def test_a_byte_order_mark_is_skipped():
    assert parse_json(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\r\n', "") == {"a": "é"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "the whole is \\[\\]; expected object"),
        ({}, "missing required field name"),
        ({"name": 3}, "name is 3; expected str"),
        ({"name": "a", "inner": {"depth": 0}}, "inner.depth is 0; expected int >= 1"),
        ({"name": "a", "inner": {"depth": 11}}, "inner.depth is 11; expected int <= 10"),
        ({"name": "a", "inner": {"depth": True}}, "inner.depth is True; expected int"),
        ({"name": "a", "inner": {"depth": 2.0}}, "inner.depth is 2.0; expected int"),
        ({"name": "a", "inner": {"dept": 2}}, "unknown field inner.dept"),
        ({"name": "a", "inner": []}, "inner is \\[\\]; expected object"),
        ({"name": "a", "inner": {"ratio": float("nan")}}, "inner.ratio is nan"),
        ({"name": "a", "inner": {"ratio": "1"}}, "inner.ratio is '1'; expected float"),
        ({"name": "a", "sizes": [1, 2.5]}, r"sizes\[1\] is 2.5; expected int"),
        ({"name": "a", "sizes": [1 << 70]}, r"sizes\[0\] is a number of over 64 bits"),
        ({"name": "a", "shift": float("inf")}, "shift is inf"),
        ({"name": ["x"] * 10_000}, "name is "),
    ],
)
def test_what_does_not_fit_a_dataclass_is_named(values, message):
    with pytest.raises(UserError, match=message) as e:
        build(Outer, values, "config.json")
    assert str(e.value).startswith("config.json: ")
    assert len(str(e.value)) < 200


def test_what_fits_is_built_and_absent_fields_take_their_defaults():
    values = {"name": "a", "inner": {"ratio": 2}, "sizes": [1, 2]}
    assert build(Outer, values, "") == Outer("a", Inner(3, 2.0), (1, 2), None)


def test_what_was_assigned_is_held_to_the_same_bounds():
    config = Outer("a")
    config.inner.depth = 11
    with pytest.raises(UserError, match=r"the config: inner.depth is 11; expected int <= 10"):
        check_fields(config, "the config")


def test_a_file_that_cannot_be_read_is_told_from_one_that_is_no_json(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="does not exist"):
        read_json(path)
    path.mkdir()
    with pytest.raises(UserError, match="no file"):
        read_json(path)
    path.rmdir()
    path.write_text("[1]")
    with pytest.raises(UserError, match="should hold a JSON object"):
        read_json(path)
    with pytest.raises(UserError, match="has 3 bytes"):
        read_json(path, largest=2)


def test_what_is_written_can_be_read(tmp_path):
    values = {"a": [1, 2.5, None, "é 变"], "b": {"c": True}}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values == json.loads((tmp_path / "a.json").read_text())
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
