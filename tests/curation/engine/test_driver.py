"""Runs of a small pipeline: what comes out, and what is made again after which change."""

import dataclasses
import json
from typing import ClassVar

import pytest

from step1x_jax.curation.engine import worker
from step1x_jax.curation.engine.driver import finished, plans
from step1x_jax.curation.engine.joining import live_rows
from step1x_jax.curation.engine.part_files import FIXED, read_rows
from step1x_jax.curation.engine.rows import StopError
from step1x_jax.curation.engine.stage import Stage, each
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.errors import UserError
from tests.curation.toys import CALLS, AtMost, Flaky, Numbers, Square, Stops, calls, drive, toy
from tests.curation.toys import toy_stages as stages

pytestmark = pytest.mark.parquet


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Where stages note what they are given; called, it gives that and forgets it."""
    folder = tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv(CALLS, str(folder))

    def take():
        found = {name: ids.total() for name, ids in calls(folder).items()}
        for path in folder.iterdir():
            path.unlink()
        return found

    return take


def rows_of(workdir, name, columns):
    """All rows of a stage, with the engine's columns and some of its own."""
    parts = Workdir(workdir).parts(name)
    files = [file.file for part in parts.values() for file in part.files]
    return [
        row
        for file in files
        for row in read_rows(str(workdir / "stages" / name / file), {**FIXED, **columns})
    ]


def test_what_comes_out(tmp_path):
    """By hand: of 0 to 11 the squares up to 50 go on; even divisors that no earlier number has."""
    pipeline = toy(stages=stages(at_most={"limit": 50}))
    drive(pipeline, tmp_path / "run")
    history = finished(pipeline, Workdir(tmp_path / "run"))
    columns = {"text": str, "words": list[str], "number": int, "facts": dict}
    rows = [
        row for key in history.files for row in live_rows(history.layers(key, columns), columns)
    ]
    wanted = [(2, 2), (4, 4), (6, 6)]
    texts = [f"number {n} / {d} ({n * n}, 0)" for n, d in wanted]
    assert [row["text"] for row in rows] == texts
    assert [row["words"] for row in rows] == [text.split() for text in texts]
    assert [row["number"] for row in rows] == [2, 4, 6]
    assert rows[2]["facts"] == {"of": 6, "square": 36}


def test_rows_that_are_left_out_stay_with_their_reason(tmp_path):
    drive(toy(stages=stages(at_most={"limit": 50})), tmp_path / "run")
    rows = rows_of(tmp_path / "run", "text", {"text": str})
    ids = [(row["id"], row["status"], row["stage"], row["reason"]) for row in rows]
    assert ids == [
        ("n0000.0", "rejected", "divisors", "nothing_made"),
        ("n0001.0", "rejected", "divisors", "nothing_made"),
        ("n0002.0", "ok", "", ""),
        ("n0003.0", "rejected", "divisors", "odd"),
        ("n0004.0", "rejected", "once", "again"),  # 2
        ("n0004.1", "ok", "", ""),
        ("n0005.0", "rejected", "divisors", "odd"),
        ("n0006.0", "rejected", "once", "again"),
        ("n0006.1", "rejected", "divisors", "odd"),
        ("n0006.2", "ok", "", ""),
        ("n0007.0", "rejected", "divisors", "odd"),
        *((f"n{i:04d}", "rejected", "at_most", "too_large") for i in range(8, 12)),
    ]
    assert [row["detail"] for row in rows if row["stage"] == "once"] == ["as in number 2"] * 2
    parents = {row["id"]: row["parent_id"] for row in rows_of(tmp_path / "run", "divisors", {})}
    assert parents["n0006.2"] == "n0006"


def test_a_second_run_does_nothing(tmp_path, noted):
    first = drive(toy(), tmp_path / "run")
    assert noted() == {
        "source": 12, "square": 12, "at_most": 12, "divisors": 12, "once": 1, "text": 5
    }  # fmt: skip
    made = []
    assert drive(toy(), tmp_path / "run", on_part=lambda plan, part: made.append(part)) == first
    assert noted() == {}
    assert made == []


def test_another_threshold_runs_filters_and_what_they_let_pass_anew(tmp_path, noted):
    drive(toy(stages=stages(at_most={"limit": 50})), tmp_path / "run")
    noted()
    changed = toy(stages=stages(at_most={"limit": 64}))
    after = drive(changed, tmp_path / "run")
    # 8 alone is new behind the filter: its divisors, and of these the even new one's text
    assert noted() == {"at_most": 12, "divisors": 1, "once": 1, "text": 1}
    assert after == drive(changed, tmp_path / "fresh")
    noted()
    drive(toy(stages=stages(at_most={"limit": 50})), tmp_path / "run")
    assert noted() == {"at_most": 12, "once": 1}


def test_what_is_decided_about_all_is_decided_anew(tmp_path, noted):
    """Without 2, the divisor 2 is taken from 4, of whose own row nothing has changed."""
    drive(toy(), tmp_path / "run")
    changed = toy(stages=stages(at_most={"least": 9}))
    noted()
    after = drive(changed, tmp_path / "run")
    assert noted() == {"at_most": 12, "once": 1, "text": 1}
    assert after == drive(changed, tmp_path / "fresh")


def test_what_makes_a_stage_another(tmp_path, noted, monkeypatch):
    drive(toy(), tmp_path / "run")
    noted()
    drive(toy(stages=stages(square={"seconds": 0.001})), tmp_path / "run")  # aside
    assert noted() == {}
    monkeypatch.setattr(Square, "version", 2)
    drive(toy(), tmp_path / "run")
    assert noted() == {"square": 12}  # the same came out, so that nothing behind it changed
    monkeypatch.setattr(Square, "identity", lambda self: {"model": "b"})
    drive(toy(), tmp_path / "run")
    assert noted() == {"square": 12}
    first = drive(toy(), tmp_path / "run")
    assert noted() == {}
    assert drive(toy(seed=1), tmp_path / "run") != first
    assert noted()["square"] == 12


def test_a_stage_that_is_put_between_leaves_the_others(tmp_path, noted):
    drive(toy(), tmp_path / "run")
    noted()
    more = stages()
    between = {"square": more.pop("square"), "all": AtMost(10**9), **more}
    drive(toy(stages=between), tmp_path / "run")
    assert noted() == {"at_most": 12}


def test_random_numbers_are_a_rows_own(tmp_path):
    drive(toy(count=12, part=3), tmp_path / "a")
    drive(toy(count=12, part=5), tmp_path / "b")
    drive(toy(seed=1), tmp_path / "c")
    a, b, c = (
        {row["id"]: row["noise"] for row in rows_of(tmp_path / one, "square", {"noise": float})}
        for one in "abc"
    )
    assert a == b
    assert len(set(a.values())) == 12
    assert not set(a.values()) & set(c.values())


def test_failures_are_of_a_row(tmp_path):
    pipeline = toy(stages=stages(square={"fails": (4,)}), max_error_rate=0.1)
    drive(pipeline, tmp_path / "run")
    (failed,) = [row for row in rows_of(tmp_path / "run", "text", {}) if row["status"] == "failed"]
    assert (failed["id"], failed["stage"], failed["reason"]) == ("n0004", "square", "ValueError")
    assert failed["detail"] == "no square of 4"
    assert Workdir(tmp_path / "run").parts("square")["000001"].failed == {"ValueError": 1}


@dataclasses.dataclass
class Batched(Square):
    batch: ClassVar = 3


def test_a_row_that_fails_harms_none_beside_it(tmp_path):
    drive(toy(stages={"square": Batched(fails=(4,))}, max_error_rate=0.1), tmp_path / "run")
    squares = {
        row["id"]: row["square"] for row in rows_of(tmp_path / "run", "square", {"square": int})
    }
    assert squares == {f"n{i:04d}": None if i == 4 else i**2 for i in range(12)}


def test_too_many_failures_end_the_stage_and_are_tried_again(tmp_path, noted):
    bad = toy(stages=stages(square={"fails": (4, 5, 6)}), max_error_rate=0.1)
    with pytest.raises(StopError, match=r"square failed for 3 of 12 rows, .* \(no square of 4\)"):
        drive(bad, tmp_path / "run")
    assert noted() == {"source": 12, "square": 12}
    with pytest.raises(StopError, match="3 of 12"):
        drive(bad, tmp_path / "run")
    assert noted() == {"square": 3}  # rows beside them keep what was made
    drive(dataclasses.replace(bad, max_error_rate=0.5), tmp_path / "run")
    assert "square" not in noted()


def test_too_many_failures_end_a_long_stage_early(tmp_path, noted):
    pipeline = toy(count=400, part=10, stages={"square": Square(fails=tuple(range(200)))})
    with pytest.raises(StopError, match="failed for 50 of 50 rows"):
        drive(pipeline, tmp_path / "run")
    assert noted()["square"] == 50
    assert len(Workdir(tmp_path / "run").parts("square")) == 5


def test_what_may_pass_is_tried_so_often_and_no_more(tmp_path, noted, monkeypatch):
    slept = []
    monkeypatch.setattr(worker.time, "sleep", slept.append)
    drive(toy(count=2, stages={"flaky": Flaky(times=2)}), tmp_path / "a")
    assert [row["tries"] for row in rows_of(tmp_path / "a", "flaky", {"tries": int})] == [3, 3]
    assert slept == [1, 2, 1, 2]
    noted()
    with pytest.raises(StopError, match="with TransientError"):
        drive(toy(count=2, stages={"flaky": Flaky(times=3)}), tmp_path / "b")
    assert noted() == {"source": 2, "flaky": 6}


def test_what_ends_a_stage_keeps_the_parts_before_it(tmp_path, noted):
    with pytest.raises(StopError, match="nobody answers"):
        drive(toy(stages={"stops": Stops(7)}), tmp_path / "run")
    assert noted()["stops"] == 8
    assert sorted(Workdir(tmp_path / "run").parts("stops")) == ["000000", "000001"]
    drive(toy(stages={"stops": Stops(-1)}), tmp_path / "run")
    assert noted() == {"stops": 6}


def test_large_parts_are_split_and_found_again(tmp_path, noted):
    big = stages(square={"size": 1 << 20})
    pipeline = toy(stages=big, part_bytes=2 * (1 << 20) + (1 << 19))
    first = drive(pipeline, tmp_path / "run")
    sizes = [path.stat().st_size for path in (tmp_path / "run" / "stages").rglob("*.parquet")]
    assert max(sizes) <= pipeline.part_bytes
    names = sorted(path.name[:15] for path in (tmp_path / "run/stages/text").glob("*.parquet"))
    assert names[:3] == ["part-000000-000", "part-000000-001", "part-000000-002"]
    rows = rows_of(tmp_path / "run", "text", {"text": str})
    assert [row["text"] for row in rows if row["id"] == "n0010.2"] == [
        "number 10 / 10 (100, 1048576)"
    ]
    noted()
    assert drive(pipeline, tmp_path / "run") == first
    assert noted() == {}


def test_a_row_larger_than_a_part_is_left_out(tmp_path):
    pipeline = toy(count=2, stages={"square": Square(size=3 << 20)}, part_bytes=2 << 20)
    drive(pipeline, tmp_path / "run")
    rows = rows_of(tmp_path / "run", "square", {"data": bytes})
    assert [(row["status"], row["reason"], row["stage"]) for row in rows] == [
        ("rejected", "too_large", "square")
    ] * 2
    assert [row["data"] for row in rows] == [None, None]


@dataclasses.dataclass
class Wrong(Stage):
    """Gives what it does not declare."""

    gives: str = ""
    reads = {"number": int}  # noqa: RUF012
    writes = {"x": int, "y": float, "z": list[str], "t": str}  # noqa: RUF012

    def open(self):
        made = {
            "another": {"q": 1},
            "type": {"x": "1"},
            "nan": {"y": float("nan")},
            "element": {"z": ["a", 1]},
            "surrogate": {"t": "\ud800"},
            "none": None,
            "many": [{"x": 1}],
        }
        return each(lambda row: made[self.gives])


@pytest.mark.parametrize(
    ("gives", "kind"),
    [
        ("another", "TypeError"),
        ("type", "TypeError"),
        ("nan", "ValueError"),
        ("element", "TypeError"),
        ("surrogate", "UnicodeEncodeError"),
        ("none", "TypeError"),
        ("many", "TypeError"),
    ],
)
def test_values_that_were_not_declared_fail(tmp_path, gives, kind):
    drive(toy(count=1, stages={"wrong": Wrong(gives)}, max_error_rate=1.0), tmp_path / "run")
    assert Workdir(tmp_path / "run").parts("wrong")["000000"].failed == {kind: 1}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"at_most": AtMost()}, "at_most reads the column square, which no stage before it writes"),
        ({"Square": Square()}, "a stage is called 'Square'"),
        ({"source": Square()}, "a stage is called 'source'"),
        ({"../x": Square()}, "take letters"),
    ],
)
def test_pipelines_that_cannot_be(tmp_path, stages, message):
    with pytest.raises(UserError, match=message):
        drive(toy(stages=stages), tmp_path / "run")
    assert not (tmp_path / "run/stages").exists()


def test_columns_of_another_type(tmp_path):
    class Other(Numbers):
        writes = {"number": str}  # noqa: RUF012

    with pytest.raises(UserError, match="reads number as int, and it is str"):
        drive(dataclasses.replace(toy(), source=Other()), tmp_path / "run")


def test_plans_go_as_far_as_is_known(tmp_path):
    pipeline = toy(stages=stages(square={"fails": (4, 5, 6)}), max_error_rate=0.1)
    assert [(p.name, len(p.done), len(p.wanted)) for p in plans(pipeline, Workdir(tmp_path))] == [
        ("source", 0, 4)
    ]
    with pytest.raises(StopError):
        drive(pipeline, tmp_path)
    found = [(p.name, len(p.done), len(p.wanted)) for p in plans(pipeline, Workdir(tmp_path))]
    assert found == [("source", 4, 4), ("square", 2, 4)]
    with pytest.raises(UserError, match="2 of 4 parts of the stage square are not there"):
        finished(pipeline, Workdir(tmp_path))


def test_parts_of_a_source_that_shrank_are_removed(tmp_path):
    drive(toy(count=12), tmp_path / "run")
    drive(toy(count=6), tmp_path / "run")
    names = sorted(path.name[:11] for path in (tmp_path / "run/stages/text").glob("*.json"))
    assert names == ["part-000000", "part-000001"]
    manifest = json.loads((tmp_path / "run/manifest.json").read_bytes())
    files = {part["file"] for stage in manifest["stages"] for part in stage["parts"]}
    assert files == {path.name for path in (tmp_path / "run/stages").rglob("*.parquet")}
