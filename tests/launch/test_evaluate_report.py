"""launch.evaluate report and compare."""

import json

import numpy as np
import pytest
from PIL import Image

from step1x_jax.errors import UserError
from tests.evaluation.scores import drawn, without, write
from tests.evaluation.toy import toy_rows, toy_samples, write_listed, write_results
from tests.launch.evaluate_command import evaluate

SAMPLES = toy_samples(2)


@pytest.fixture(scope="module")
def report():
    with evaluate("report") as (call, _):
        yield call


@pytest.fixture(scope="module")
def compare():
    with evaluate("compare") as (call, _):
        yield call


@pytest.fixture
def results(tmp_path):
    for number, method in enumerate("ab"):
        write(tmp_path / "results", method, "gpt", drawn(number, samples=SAMPLES))
        write_results(tmp_path / "results" / method, SAMPLES, method)
    return tmp_path / "results"


def test_tables_are_printed_and_written(report, results, capsys):
    output = results / "report"
    assert report(f"--results={results}", "--methods=a,b", f"--output={output}", "--nochart") == 0
    printed = capsys.readouterr().out
    assert printed == (output / "report.md").read_text()
    assert "## gpt, en, full set" in printed
    assert len((output / "report.csv").read_text().splitlines()) == 1 + 2 * 2 * 2 * 12 * 3
    values = json.loads((output / "report.json").read_text())
    assert values["tables"][0]["methods"]["a"]["average"]["n"] == 22
    assert sorted(path.name for path in output.iterdir()) == [
        "report.csv", "report.json", "report.md",
    ]  # fmt: skip


@pytest.mark.evaluation
def test_charts_are_drawn(report, results):
    pytest.importorskip("matplotlib", reason="needs the extra [evaluation]")
    output = results / "report"
    assert report(f"--results={results}", "--methods=a,b", f"--output={output}") == 0
    for language in ("en", "cn"):
        assert Image.open(output / f"radar-gpt-{language}.png").size == (1200, 1050)


def test_failures_of_judges_end_with_a_code_of_their_own(report, results):
    judgements = drawn(0, samples=SAMPLES)
    judgements[3] = without(*judgements[3].id[:1], "failed", judgements[3].id.key, "cn")
    write(results, "c", "gpt", judgements)
    common = (f"--results={results}", "--require_complete")
    assert report(*common, "--methods=a,b") == 0
    assert report(*common, "--methods=a,c") == 3
    assert report(f"--results={results}", "--methods=a,c") == 0


def test_official_tables_go_out_and_come_in(report, results, tmp_path, capsys):
    tables = tmp_path / "tables"
    assert report(f"--results={results}", "--methods=a,b", f"--export_csv={tables}") == 0
    before = capsys.readouterr().out
    other = tmp_path / "other"
    assert report(f"--results={other}", "--methods=a,b", f"--import_csv={tables}") == 0
    after = capsys.readouterr().out
    assert after.split("## Judges")[0] == before.split("## Judges")[0]
    assert "official score tables" in after


def test_a_comparison_with_its_sheet(compare, results, tmp_path, capsys):
    output = tmp_path / "comparison"
    dataset = write_listed(tmp_path / "toy", toy_rows(2))
    common = (f"--results={results}", f"--output={output}")
    assert compare(*common, "--methods=a,b", f"--dataset={dataset}") == 0
    printed = capsys.readouterr().out
    assert printed == (output / "comparison.md").read_text()
    assert "# a against b" in printed
    assert "protocol area512" in printed
    values = json.loads((output / "comparison.json").read_text())
    assert [one["language"] for one in values["sections"]] == ["en", "en", "cn", "cn"]
    with_sources = np.asarray(Image.open(output / "disagreements.png"))
    assert with_sources.shape[0] > 10 * 320  # ten rows
    assert compare(*common, "--methods=b,a") == 0
    turned = np.asarray(Image.open(output / "disagreements.png"))
    assert turned.shape[1] < with_sources.shape[1]
    other = json.loads((output / "comparison.json").read_text())
    first, second = (
        one["sections"][0]["comparison"]["average"]["means"]["O"] for one in (values, other)
    )
    assert first == pytest.approx(-second, abs=1e-12)


def test_a_method_against_itself(compare, results, tmp_path, capsys):
    output = tmp_path / "comparison"
    assert compare(f"--results={results}", "--methods=a,a", f"--output={output}") == 0
    for section in json.loads((output / "comparison.json").read_text())["sections"]:
        average = section["comparison"]["average"]
        assert set(average["means"].values()) == {0.0}
        if section["subset"] == "full":  # inside of the intersection is one sample of each task
            assert list(average["intervals"].values()) == [[0.0, 0.0]] * 3
    assert not (output / "disagreements.png").exists()


def test_pictures_that_are_gone_are_told(compare, results, tmp_path, capsys):
    for path in (results / "a/fullset").rglob("*.png"):
        path.unlink()
    output = tmp_path / "comparison"
    assert compare(f"--results={results}", "--methods=a,b", f"--output={output}") == 0
    assert "not on the sheet" in capsys.readouterr().err
    assert not (output / "disagreements.png").exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--methods=a"], "give two, as a,b"),
        (["--methods=a,b,c"], "give two, as a,b"),
        (["--methods=a,d"], "a and d are both judged by nobody"),
        (["--methods=a,e"], "a and e are both judged by gpt, qwen; give the --judge"),
        (["--methods=a,b", "--source=raw"], "is none of gedit"),
    ],
)
def test_what_cannot_be_compared_is_told(compare, results, flags, word):
    write(results, "d", "qwen", drawn(3, samples=SAMPLES))
    if flags[0].endswith("e"):
        for method in "ae":
            for judge in ("gpt", "qwen"):
                write(results, method, judge, drawn(4, samples=SAMPLES))
    with pytest.raises(UserError, match=word):
        compare(f"--results={results}", *flags)
