"""Answers joined with the key: checked against hand-made sums and a second bootstrap."""

import json

import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.study.answers import read_answers
from step1x_jax.evaluation.study.key import KeySample, StudyKey, read_key, write_key
from step1x_jax.evaluation.study.score import score_study
from step1x_jax.evaluation.study.tables import study_to_json, study_to_markdown

TASKS = ("color_alter", "ps_human", "text_change")


def make_key(people=4, per_task=2, flag=True):
    """Everybody rates everything of two methods; of each task the first is in the intersection."""
    samples = {
        f"s-{task}-{i}": KeySample(
            task, "en", f"{i}", (i == 0) if flag else None,
            {f"x-{task}-{i}": "ours", f"y-{task}-{i}": "theirs"},
        )
        for task in reversed(TASKS)
        for i in range(per_task)
    }  # fmt: skip
    return StudyKey(
        1, "0a0a0a0a", "00", "gedit", "input_image", ["ours", "theirs"], samples,
        {f"p{i + 1:02}": list(samples) for i in range(people)}, {"ours": 0, "theirs": 2},
    )  # fmt: skip


def all_pictures(key):
    return [picture for sample in key.samples.values() for picture in sample.pictures]


class Folder:
    """Exports, written as the page does."""

    def __init__(self, tmp_path, key):
        self.path, self.key, self.files = tmp_path, key, []

    def export(self, person, ratings, **changed):
        values = {
            "format": 1, "study": self.key.study, "participant": person,
            "exported": "2026-11-30T10:00:00.000Z", "ratings": ratings,
        }  # fmt: skip
        file = self.path / f"{len(self.files)}.json"
        file.write_text(json.dumps(values | changed))
        self.files.append(file)
        return file

    def read(self):
        return read_answers(self.files, self.key)

    def scores(self):
        return score_study(self.key, self.read())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path, make_key())


def test_levels_are_2_to_10_and_means_run_over_people_then_tasks(folder):
    x = "x-color_alter-{}", "x-ps_human-{}", "x-text_change-{}"
    first = {x[0].format(0): 5, x[0].format(1): 4, x[1].format(0): 1, x[2].format(0): 3}
    # this person rated fewer pictures of the first task, and counts alike
    second = {x[0].format(0): 1, x[1].format(0): 2, x[1].format(1): 5}
    folder.export("p01", first)
    folder.export("p03", second)
    full, _, part, _ = folder.scores()
    assert (full.method, full.subset, part.method, part.subset) == (
        "ours", "full", "ours", "intersection",
    )  # fmt: skip
    assert list(full.tasks) == list(TASKS)  # the official order
    assert full.tasks["color_alter"].mean == (9 + 2) / 2
    assert full.tasks["ps_human"].mean == (2 + 7) / 2
    assert full.tasks["text_change"].mean == 6
    assert full.average.mean == pytest.approx((5.5 + 4.5 + 6) / 3, abs=1e-12)
    assert (full.participants, full.ratings, part.ratings) == (2, 7, 5)
    assert part.tasks["color_alter"].mean == (10 + 2) / 2
    assert part.tasks["ps_human"].mean == (2 + 4) / 2


def test_a_task_without_ratings_has_no_score_nor_has_the_average(folder):
    folder.export("p01", {"x-color_alter-0": 5, "x-ps_human-0": 5, "y-color_alter-0": 2})
    ours, theirs, *_ = folder.scores()
    assert ours.tasks["text_change"] is None
    assert ours.average is None
    assert theirs.tasks["color_alter"].mean == 4
    text = study_to_markdown(folder.key, folder.read(), folder.scores())
    assert "| ours | – (no ratings: text_change) | – | 1 | 2 | 10.000 | 10.000 | – |" in text
    assert "nan" not in text.lower()


def test_intervals_agree_with_a_plain_bootstrap(folder):
    rng = np.random.default_rng(1)
    folder.key = make_key(people=12)
    said = {}
    for person in folder.key.participants:
        mood = rng.integers(-1, 2)  # people differ: that is what the intervals are about
        said[person] = {
            picture: int(np.clip(rng.integers(2, 5) + mood, 1, 5))
            for picture in all_pictures(folder.key)
        }
        folder.export(person, said[person])
    ours = folder.scores()[0]

    def mean(people):
        return np.mean([
            np.mean([np.mean([2 * said[p][f"x-{t}-{i}"] for i in (0, 1)]) for p in people])
            for t in TASKS
        ])  # fmt: skip

    people = list(said)
    assert ours.average.mean == pytest.approx(mean(people), abs=1e-12)
    draws = [mean(rng.choice(people, len(people))) for _ in range(3000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    # percentiles of 3000 and of 10000 draws: standard error below 0.05 times their distance
    assert ours.average.low == pytest.approx(low, abs=0.1 * (high - low))
    assert ours.average.high == pytest.approx(high, abs=0.1 * (high - low))
    assert high - low > 0.3


def test_people_who_agree_leave_no_interval_to_speak_of(folder):
    for person in folder.key.participants:
        folder.export(person, {p: 2 if p[0] == "x" else 3 for p in all_pictures(folder.key)})
    for row in folder.scores():
        expected = 4 if row.method == "ours" else 6
        assert (row.average.low, row.average.mean, row.average.high) == (expected,) * 3


def test_no_interval_of_one_person_or_where_most_resamples_lack_a_task(folder):
    folder.export("p01", dict.fromkeys(all_pictures(folder.key), 3))
    assert folder.scores()[0].average.low is None
    # the third task was rated by one of two: half of the resamples are without it
    folder.export("p02", {"x-color_alter-0": 4, "x-ps_human-0": 4})
    row = folder.scores()[0]
    assert row.average.low is None
    assert row.tasks["color_alter"].low == 6


def test_without_a_flag_there_is_no_intersection(folder):
    folder.key = make_key(flag=False)
    folder.export("p01", dict.fromkeys(all_pictures(folder.key), 3))
    assert {row.subset for row in folder.scores()} == {"full"}


def test_partial_exports_duplicates_and_absent_people_are_reported(folder):
    pictures = all_pictures(folder.key)
    early = dict.fromkeys(pictures[:5], 2)
    folder.export("p01", early, exported="2026-11-30T09:00:00.000Z")
    folder.export("p01", early | dict.fromkeys(pictures[3:8], 4))
    folder.export("p02", dict.fromkeys(pictures, 3))
    folder.export("p02", dict.fromkeys(pictures, 3))  # the same file twice
    answers = folder.read()
    assert [(n.rated, n.dealt, n.used, n.changed) for n in answers.notes] == [
        (5, 12, False, 2), (8, 12, True, 0), (12, 12, True, 0), (12, 12, False, 0),
    ]  # fmt: skip
    assert answers.ratings["p01"][pictures[4]] == 4
    assert answers.absent == ["p03", "p04"]
    rows = score_study(folder.key, answers)
    text = study_to_markdown(folder.key, answers, rows)
    assert "another export of p01, not counted (2 ratings differ from the one that counts)" in text
    assert "p01 rated 8 of 12 pictures" in text
    assert "No answers of p03, p04." in text
    assert "2 samples are not in the study: theirs has no picture" in text
    assert "2 of 4 participants" in text
    assert "| Step1X-Edit v1.0 | full | 6.939 | 2025-04 | arXiv 2504.17761 |" in text  # the paper's
    values = json.loads(json.dumps(study_to_json(folder.key, answers, rows), allow_nan=False))
    assert values["absent"] == ["p03", "p04"]
    assert values["rows"][0]["average"]["mean"] == rows[0].average.mean
    # ratings of a file that does not count are in no mean: the later file has none of these
    assert rows[0].ratings == 4 + 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"study": "other"}, "of the study 'other', not of 0a0a0a0a"),
        ({"participant": "p09"}, "participant 'p09', whom this study does not have"),
        ({"ratings": {"z": 3}}, "rates 1 pictures that p01 was not dealt"),
        ({"ratings": {"x-ps_human-0": 6}}, "ratings"),
        ({"ratings": {"x-ps_human-0": 0}}, "ratings"),
        ({"ratings": {"x-ps_human-0": 2.5}}, "ratings"),
        ({"ratings": {"x-ps_human-0": None}}, "ratings"),
        ({"ratings": {"x-ps_human-0": "5"}}, "ratings"),
        ({"ratings": {"x-ps_human-0": True}}, "ratings"),
        ({"ratings": []}, "ratings"),
        ({"format": 2}, "format"),
        ({"exported": "yesterday"}, "exported"),
        ({"name": "me"}, "unknown field name"),
    ],
)
def test_exports_of_strangers_are_refused_by_name(folder, changed, message):
    file = folder.export("p01", **{"ratings": {"x-ps_human-0": 3}} | changed)
    with pytest.raises(UserError, match=message) as error:
        folder.read()
    assert str(file) in str(error.value)


def test_a_large_file_and_one_that_is_no_json_are_refused(folder):
    file = folder.export("p01", {})
    file.write_bytes(b" " * ((4 << 20) + 1))
    with pytest.raises(UserError, match="more than such a file can have"):
        folder.read()
    file.write_text('{"ratings": {"a": NaN}}')
    with pytest.raises(UserError, match="not valid JSON"):
        folder.read()


def test_two_that_differ_at_the_same_time_are_not_chosen_from(folder):
    folder.export("p01", {"x-ps_human-0": 3})
    folder.export("p01", {"x-ps_human-0": 4})
    with pytest.raises(UserError, match="at the same time and differ; leave one"):
        folder.read()


@pytest.mark.parametrize(
    "change",
    [
        {"participants": {"p01": ["gone"]}},
        {"methods": ["ours"]},
        {"methods": "ours"},
        {"format": 3},
    ],
)
def test_a_key_that_does_not_fit_together_is_refused(tmp_path, change):
    key = make_key()
    write_key(tmp_path / "key.json", key)
    assert read_key(tmp_path / "key.json") == key
    values = json.loads((tmp_path / "key.json").read_text())
    (tmp_path / "key.json").write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=r"key\.json"):
        read_key(tmp_path / "key.json")


def test_who_rated_nothing_changes_nothing(folder):
    for person in ("p01", "p02"):
        folder.export(person, dict.fromkeys(all_pictures(folder.key), 3 + (person == "p02")))
    before = folder.scores()
    folder.export("p03", {})
    assert folder.scores() == before
