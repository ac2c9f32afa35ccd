"""launch.evaluate judge, against a scripted server."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from step1x_jax.errors import UserError
from step1x_jax.evaluation.judgement_files import judge_folder, read_judgements
from tests.asking.chat_server import completion, error, serving
from tests.evaluation.judging.test_judge_run import honest
from tests.evaluation.toy import toy_rows, toy_samples, write_listed, write_results
from tests.launch.evaluate_command import JUDGE, evaluate

TASKS = ("ps_human", "tone_transfer")
SAMPLES = toy_samples(1, TASKS)  # four, eight questions
QUICK = ("--max_attempts=1", "--concurrency=2", "--timeout=20")


@pytest.fixture(scope="module")
def judge():
    with evaluate("judge", JUDGE) as (call, _):
        yield call


@pytest.fixture
def there(tmp_path):
    """Arguments that name a data set and a method's pictures."""
    write_listed(tmp_path / "data", toy_rows(1, TASKS))
    write_results(tmp_path / "results" / "mine", SAMPLES, "mine")
    return (
        f"--dataset={tmp_path / 'data'}",
        f"--results={tmp_path / 'results'}",
        "--method=mine",
        *QUICK,
    )


def test_judgements_and_a_table(judge, there, tmp_path, capsys):
    with serving(honest) as server:
        assert judge(*there, f"--endpoint={server.url}") == 0
        assert len(server.questions) == 8
    folder = judge_folder(tmp_path / "results" / "mine", "qwen2.5-vl-72b")
    judgements, facts = read_judgements(folder)
    assert sorted(one.id for one in judgements) == sorted(sample.id for sample in SAMPLES)
    assert facts["judge"] == "qwen2.5-vl-72b"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: 0 failed, 8 replies, 800 tokens in, 80 out"
    words = ["ok", "missing", "unreadable", "unparsable", "refused", "failed"]
    assert lines[1].split() == words
    assert sorted(line.split() for line in lines[2:]) == [
        ["cn", "2", "0", "0", "0", "0", "0"],
        ["en", "2", "0", "0", "0", "0", "0"],
    ]


def test_samples_without_a_judgement_are_listed_and_end_in_code_3(judge, there, capsys):
    def script(request):
        return error(500, message="sorry") if "ps_human" in request.text else honest(request)

    with serving(script) as server:
        assert judge(*there, f"--endpoint={server.url}", "--languages=en") == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2].split() == ["en", "1", "0", "0", "0", "0", "1"]
    assert f"{'/'.join(SAMPLES[0].id)}: failed status 500: sorry" in printed.err


def test_a_dry_run_asks_nothing_and_needs_no_key(judge, there, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    next((tmp_path / "results").rglob("*.png")).unlink()
    prices = ("--usd_per_million_input=1000", "--usd_per_million_output=1000")
    assert judge(*there, "--dry_run", "--judge=gpt-4.1", *prices, "--repeats=3") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("18 calls to make, 0 questions answered before; about ")
    assert float(first.split()[-2]) > 1
    assert second == "1 samples whose picture is missing"
    assert not (tmp_path / "results" / "mine" / "judgements").exists()
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        judge(*there, "--judge=gpt-4.1")


def test_flags_reach_the_request(judge, there, tmp_path):
    prompts = tmp_path / "vie_prompts.py"
    prompts.write_text(
        "_context_no_delimit = 'context'\n_prompts_0shot_two_image_edit_rule = 'two'\n"
        "_prompts_0shot_tie_rule_SC = 'do <instruction>'\n_prompts_0shot_rule_PQ = 'one'\n"
    )
    with serving(lambda request: completion("7")) as server:
        code = judge(
            *there,
            f"--endpoint={server.url}",
            "--judge=gpt-5-family",
            "--model=some-model",
            "--judge_name=other",
            f"--prompt_file={prompts}",
            "--protocol=source_size",
            "--accept_single",
            "--limit=1",
            "--repeats=2",
        )
        assert code == 0
        texts = sorted({one.text for one in server.questions})
        assert texts == ["context\none", f"context\ntwo\ndo {SAMPLES[0].instruction}"]
        assert len(server.questions) == 4
        assert {one.body["model"] for one in server.questions} == {"some-model"}
    _, facts = read_judgements(judge_folder(tmp_path / "results" / "mine", "other"))
    assert facts["prompts"] == "vie_prompts.py"
    assert (facts["protocol"], facts["source"]) == ("source_size", "input_image")
    assert (facts["accept_single"], facts["repeats"]) == (True, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--judge=gpt-9",), "--judge=gpt-9 is not known"),
        (("--benchmark=geditv2",), "--against"),
        (("--method=none",), "none does not exist"),
        (("--judge_name=a/b",), "the judge's name"),
    ],
)
def test_what_is_wrong_is_one_sentence(judge, there, arguments, words):
    with pytest.raises(UserError, match=words):
        judge(*there, *arguments)


def test_killed_halfway_it_goes_on_without_paying_twice(judge, there, tmp_path):
    """kill -9 while two questions are being answered: only these two are asked again."""
    folder = judge_folder(tmp_path / "results" / "mine", "qwen2.5-vl-72b")
    replies = folder / "replies.jsonl"
    waiting, killed = threading.Semaphore(0), threading.Event()

    def script(request):
        if len(server.questions) > 4 and not killed.is_set():
            waiting.release()
            killed.wait(60)
        return honest(request)

    with serving(script) as server:
        command = [sys.executable, "-m", "launch.evaluate", "judge", *there]
        command.append(f"--endpoint={server.url}")
        process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        assert all(waiting.acquire(timeout=100) for _ in range(2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed.set()
        assert not (folder / "judgements.jsonl").exists()
        kept = replies.read_bytes()
        assert kept.count(b"\n") == 4
        replies.write_bytes(kept + kept[:50])  # as if it had been killed while it wrote
        assert judge(*there, f"--endpoint={server.url}") == 0
        calls = [json.dumps(one.body) for one in server.questions]
        assert (len(calls), len({*calls})) == (8 + 2, 8)
        after = (folder / "judgements.jsonl").read_bytes()
        assert judge(*there, f"--endpoint={server.url}", "--judge_name=again") == 0
    assert (folder.parent / "again" / "judgements.jsonl").read_bytes() == after
    assert replies.read_bytes().startswith(kept)
    assert replies.read_bytes().count(b"\n") == 8
