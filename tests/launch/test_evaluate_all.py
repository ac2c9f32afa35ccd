"""The toy benchmark through the commands in order: what one writes is what the next one reads."""

import json
import types

import pytest

from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.datasets import read_samples
from tests.asking.chat_server import serving
from tests.evaluation.judging.test_judge_run import honest
from tests.evaluation.toy import toy_rows, write_listed, write_results
from tests.launch.evaluate_command import JUDGE, SHARED, evaluate
from tests.launch.test_evaluate_generate import Loading
from tests.launch.test_evaluate_judge import QUICK

BENCHMARK, DEIDENTIFY = (
    ("launch.evaluations.benchmark_flags",),
    ("launch.evaluations.deidentify_flags",),
)


@pytest.mark.slow
def test_from_a_data_set_without_faces_to_tables_and_a_study(tmp_path, monkeypatch, capsys):
    data = f"--dataset={write_listed(tmp_path / 'private', toy_rows(1))}"
    findings, decided = tmp_path / "work" / "findings.json", tmp_path / "work" / "decisions.json"
    monkeypatch.setitem(
        __import__("sys").modules, "no_plates", types.SimpleNamespace(find=lambda _: [])
    )
    with evaluate("deidentify_scan", BENCHMARK) as (scan, _):
        scan(data, "--find=", "--plates=no_plates:find", f"--output={findings}")
    found = json.loads(findings.read_text())
    keep = {"action": "keep", "boxes": [], "look_alike": None}
    decisions = {
        "format": 1, "scan": found["scan"], "reviewer": "me",
        "exported": "2026-11-30T10:00:00.000Z",
        "decisions": {
            one["digest"]: keep | {"instructions": [r["instruction"] for r in one["requests"]]}
            for one in found["pictures"]
        },
    }  # fmt: skip
    decided.write_text(json.dumps(decisions))
    with evaluate("deidentify_export", DEIDENTIFY) as (export, _):
        export(
            data, f"--findings={findings}", f"--decisions={decided}", "--to=folder",
            f"--audit={tmp_path}/work/audit.jsonl", f"--output={tmp_path}/public",
        )  # fmt: skip
    samples = read_samples(tmp_path / "public", GEDIT)
    assert {(one.id.task, one.id.language) for one in samples} == {
        (task, language) for task in GEDIT.tasks for language in GEDIT.languages
    }

    data, results = f"--dataset={tmp_path}/public", f"--results={tmp_path}/results"
    with evaluate("generate", SHARED) as (generate, module):
        module.Editor = Loading()
        flags = "--method=mine", "--model=quickstart", "--size=64", "--steps=1"
        assert generate(data, results, *flags) == 0
    write_results(tmp_path / "results" / "theirs", samples)
    with (
        serving(honest) as server,
        evaluate("judge", JUDGE) as (judge, _),
    ):
        for method in ("mine", "theirs"):
            flags = f"--method={method}", f"--endpoint={server.url}", *QUICK
            assert judge(data, results, *flags) == 0
        assert len(server.questions) == 2 * 2 * len(samples)
    capsys.readouterr()
    with evaluate("report") as (report, _):
        flags = "--methods=mine,theirs", "--nochart", f"--output={tmp_path}/report"
        assert report(results, *flags, "--require_complete") == 0
    tables = json.loads((tmp_path / "report" / "report.json").read_text())["tables"]
    assert [table["methods"]["mine"]["average"]["n"] for table in tables] == [11] * 4
    with evaluate("compare") as (compare, _):
        assert compare(results, "--methods=mine,mine", f"--output={tmp_path}/same") == 0
    with evaluate("study_build", BENCHMARK) as (build, _):
        build(
            data, results, "--methods=mine,theirs", "--participants=2", "--samples_each=11",
            f"--output={tmp_path}/study", f"--key={tmp_path}/key.json",
        )  # fmt: skip
    assert len(json.loads((tmp_path / "key.json").read_text())["samples"]) == len(samples)
