"""Reports: what stands in which cell, in Markdown, CSV and JSON."""

import csv
import io
import json
import re

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, GEDIT_V2
from step1x_jax.evaluation.report import compare_methods, make_report, read_judged
from step1x_jax.evaluation.report_tables import to_csv, to_json, to_markdown
from step1x_jax.evaluation.statistics import score_samples, summarize
from tests.evaluation.scores import drawn, without, write


def reported(results, methods, judges=(), common=False):
    judged = read_judged(str(results), methods, judges, GEDIT)
    return make_report(judged, GEDIT, common=common)


def replaced(judgements, status, chosen):
    """The same with another status, without scores, where `chosen` says so."""
    return [
        without(one.id.task, status, one.id.key, one.id.language, intersection=one.intersection)
        if chosen(one)
        else one
        for one in judgements
    ]


def tables(markdown):
    """Heading -> the first table below it, as rows of cells."""
    found = {}
    for section in re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        lines = [
            line for line in text.strip().split("\n\n")[0].splitlines() if line.startswith("|")
        ]
        found[title] = [line.strip("| ").split(" | ") for line in lines]
    return found


@pytest.fixture
def results(tmp_path):
    write(tmp_path, "a", "gpt", drawn(0))
    write(tmp_path, "b", "gpt", drawn(1))
    write(tmp_path, "a", "qwen", drawn(2))
    return tmp_path


def test_all_three_forms_say_the_same(results):
    report = reported(results, ["a", "b"], ["gpt"])
    values = to_json(report)
    json.dumps(values, allow_nan=False)
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    found = tables(to_markdown(report))
    for language in GEDIT.languages:
        for subset, title in (("full", "full set"), ("intersection", "intersection")):
            for number, method in enumerate("ab"):
                chosen = [
                    one
                    for one in score_samples(drawn(number), GEDIT)
                    if one.id.language == language and (subset == "full" or one.intersection)
                ]
                ours = summarize(chosen, GEDIT)
                (table,) = [
                    one
                    for one in values["tables"]
                    if (one["language"], one["subset"]) == (language, subset)
                ]
                assert table["methods"][method]["average"]["means"] == ours.average.means
                numbers = {
                    (line["task"], line["measure"]): line
                    for line in lines
                    if (line["language"], line["subset"], line["method"])
                    == (language, subset, method)
                }
                assert len(numbers) == 12 * 3
                assert float(numbers["average", "O"]["mean"]) == ours.average.means["O"]
                task = ours.tasks["ps_human"]
                assert float(numbers["ps_human", "SC"]["high"]) == task.intervals["SC"][1]
                row = found[f"gpt, {language}, {title}"][2 + number]
                n = 44 if subset == "full" else 33
                low, high = ours.average.intervals["O"]
                assert row == [
                    method,
                    *(f"{ours.average.means[name]:.3f}" for name in ("SC", "PQ", "O")),
                    f"[{low:.3f}, {high:.3f}]",
                    str(n),
                    f"{n}/{n} (100.0%)",
                ]
    assert not report.incomplete


def test_judges_failures_mark_their_cells(tmp_path):
    first = drawn(0)[0].id
    write(tmp_path, "a", "gpt", replaced(drawn(0), "refused", lambda one: one.id == first))
    report = reported(tmp_path, ["a"])
    assert report.incomplete
    markdown = to_markdown(report)
    marked = re.findall(r"\d\.\d{3} \(1 failed\)", markdown)
    assert len(marked) == 2 * (
        3 + 2
    )  # full and intersection: three averages; the task, the average
    assert tables(markdown)["What has no score"][2:] == [
        ["gpt", "en", "a", "judge", "refused", "1", "background_change"]
    ]


def test_missing_pictures_lower_the_coverage_and_mark_nothing(tmp_path):
    judgements = replaced(drawn(0), "missing", lambda one: one.id.task == "ps_human"
                          and one.id.key == drawn(0)[32].id.key)  # fmt: skip
    write(tmp_path, "a", "gpt", judgements)
    report = reported(tmp_path, ["a"])
    assert not report.incomplete
    row = tables(to_markdown(report))["gpt, en, full set"][2]
    assert row[-2:] == ["43", "43/44 (97.7%)"]
    assert "failed)" not in "".join(row)


def test_an_empty_task_is_named_in_place_of_the_average(tmp_path):
    judgements = replaced(drawn(0), "missing", lambda one: one.id.task == "text_change")
    write(tmp_path, "a", "gpt", judgements)
    report = reported(tmp_path, ["a"])
    assert report.incomplete
    markdown = to_markdown(report)
    assert tables(markdown)["gpt, cn, full set"][2][1:5] == [
        "–", "–", "absent: no score in text_change", "–",
    ]  # fmt: skip
    assert "nan" not in (markdown + to_csv(report)).lower()
    json.dumps(to_json(report), allow_nan=False)


def test_what_methods_have_in_common_instead_of_the_intersection(tmp_path):
    """Pictures count, and not whether a judge failed on one."""
    ids = [one.id for one in drawn(0)]
    write(tmp_path, "a", "gpt", replaced(drawn(0), "missing", lambda one: one.id in ids[:10]))
    write(tmp_path, "b", "gpt", replaced(drawn(1), "unreadable", lambda one: one.id in ids[-6:]))
    write(tmp_path, "c", "gpt", replaced(drawn(2), "failed", lambda one: one.id in ids[44:46]))
    report = reported(tmp_path, ["a", "b", "c"], common=True)
    assert {table.subset for table in report.tables} == {"full", "common"}
    for table in report.tables:
        if table.subset == "common":
            expected = [i for i in ids[10:-6] if i.language == table.language]
            for name, summary in table.methods.items():
                lost = 1 if name == "c" else 0  # ids alternate between the languages
                assert summary.average.n == len(expected) - lost
                assert summary.average.judge_failures == lost
                assert summary.average.total == len(expected)


def test_two_judges_side_by_side(results):
    report = reported(results, ["a", "b"])
    assert {table.judge: set(table.methods) for table in report.tables} == {
        "gpt": {"a", "b"}, "qwen": {"a"},
    }  # fmt: skip
    assert [(one.method, one.language) for one in report.agreements] == [("a", "en"), ("a", "cn")]
    markdown = to_markdown(report)
    table = tables(markdown)["a, en: gpt minus qwen, on the same pictures"]
    assert table[0][-1] == "Spearman"
    assert len(table) == 2 + 11 + 1
    assert re.fullmatch(r"-?\d\.\d{3}", table[2][-1])


def test_published_rows_stand_apart(results):
    markdown = to_markdown(reported(results, ["a"], ["gpt"]))
    measured, _, published = markdown.partition("## Published elsewhere, not measured here")
    assert "Step1X-Edit" not in measured
    assert "| Step1X-Edit v1.0 | en | intersection | GPT-4.1 | 7.183 | 6.818 | 6.813 |" in published
    assert "| 7.66 | 7.35 | 6.97 |" in published
    assert "| Step1X-Edit v1.1 | en | GPT-4.1 | 7.449 | 7.382 |" in published  # by task
    assert "kris" not in published.lower()  # another benchmark's


def test_the_footer_tells_of_judges_and_where_they_differ(tmp_path):
    write(tmp_path, "a", "gpt", drawn(0), quantisation=None)
    write(tmp_path, "b", "gpt", drawn(1), quantisation=None, date="later", prompt_hash="4567")
    footer = to_markdown(reported(tmp_path, ["a", "b"])).split("## Judges")[1]
    assert "model toy-judge; **prompt_hash differs**: 0123 (a), 4567 (b)" in footer
    assert "protocol area512; date 2026-11-28 (a), later (b); quantisation unknown" in footer


def test_names_that_are_not_there_are_told(results):
    for methods, judges, word in (
        (["a", "c"], [], "c has no judgements; run evaluate judge"),
        (["a", "b"], ["qwen"], "b has no judgements of qwen; .* give one of gpt"),
        (["a", "a"], [], "has a name twice"),
        (["a"], ["gpt", "gpt"], "--judge=gpt,gpt has a name twice"),
        (["../a"], [], "the method's name"),
        (["a"], ["../gpt"], "has no judgements of ../gpt"),
    ):
        with pytest.raises(UserError, match=word):
            reported(results, methods, judges)
    with pytest.raises(UserError, match="judged by pairs"):
        read_judged(str(results), ["a"], [], GEDIT_V2)


def test_sections_of_a_comparison(results):
    judged = read_judged(str(results), ["a", "b"], ["gpt"], GEDIT)["gpt"]
    sections = compare_methods(judged["a"], judged["b"], GEDIT)
    assert [(one.language, one.subset, one.comparison.average.n) for one in sections] == [
        ("en", "full", 44), ("en", "intersection", 33),
        ("cn", "full", 44), ("cn", "intersection", 33),
    ]  # fmt: skip
