"""launch.evaluate judge --against, rank and judge-check, against a scripted server."""

import csv
import hashlib
import json

import pytest
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.pair_files import read_pairs
from tests.asking.chat_server import completion, error, serving
from tests.evaluation.toy import picture, toy_rows, toy_samples, write_listed, write_results
from tests.launch.evaluate_command import JUDGE, evaluate

TASKS = ("ps_human", "text_change")
SAMPLES = toy_samples(2, TASKS, ("en",))
CALLS = len(SAMPLES) * 3 * 2  # of one pair of methods


def judge(*arguments):
    with evaluate("judge", JUDGE) as (call, _):
        return call(*arguments)


def rank(*arguments):
    with evaluate("rank") as (call, _):
        return call(*arguments)


def check(*arguments):
    with evaluate("judge_check", ("launch.evaluations.judge_flags",)) as (call, _):
        return call(*arguments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rows = toy_rows(2, TASKS, ("en",))
    return write_listed(tmp_path_factory.mktemp("data") / "toy", rows)


@pytest.fixture
def results(tmp_path):
    for method in "abc":
        write_results(tmp_path / "results" / method, SAMPLES, method)
    return tmp_path / "results"


def winner(word):
    return completion(json.dumps({"winner": word}))


def prefer(request):
    """A judge that prefers the picture whose bytes have the smaller hash, wherever it stands."""
    first, second = (hashlib.sha256(url.encode()).digest() for url in request.pictures[-2:])
    return winner("Image A" if first < second else "Image B")


def flags(server, dataset, results, method="a", against="b"):
    return (
        f"--dataset={dataset}", f"--results={results}", f"--method={method}",
        f"--against={against}", f"--endpoint={server.url}", "--judge=qwen3-vl",
    )  # fmt: skip


def test_from_pictures_to_a_ranking(dataset, results, capsys):
    with serving(prefer) as server:
        given = flags(server, dataset, results, against="b,c")
        prices = ("--usd_per_million_input=1", "--usd_per_million_output=1")
        assert judge(*given, *prices, "--dry_run") == 0
        assert f"{2 * CALLS} calls to make" in capsys.readouterr().out
        assert server.questions == []
        assert judge(*given, *prices) == 0
        assert len(server.questions) == 2 * CALLS
        assert judge(*flags(server, dataset, results, "b", "c")) == 0
        assert len(server.questions) == 3 * CALLS
        assert judge(*given) == 0  # nothing new
        assert len(server.questions) == 3 * CALLS
    capsys.readouterr()
    output = results / "ranking"
    assert rank(f"--results={results}", f"--output={output}", "--nochart") == 0
    printed = capsys.readouterr().out
    assert printed == (output / "rank.md").read_text()
    assert "the first picture wins 50.0 % of the decisive ones" in printed
    assert "these agree in 100.0 %" in printed
    assert "Published" not in printed
    assert "served_model toy-model" in printed
    values = json.loads((output / "rank.json").read_text())
    assert [len(table["scores"]) for table in values["tables"]] == [3] * 4
    rows = list(csv.DictReader((output / "rank.csv").read_text().splitlines()))
    assert len(rows) == 3 * 4
    assert {row["failed"] for row in rows} == {"0"}
    assert sorted(path.name for path in output.iterdir()) == ["rank.csv", "rank.json", "rank.md"]


def test_a_server_that_prefers_the_first_place_ranks_nobody(dataset, results, capsys):
    with serving(lambda request: winner("Image A")) as server:
        assert judge(*flags(server, dataset, results)) == 0
    assert rank(f"--results={results}", "--judge=qwen3-vl") == 0
    printed = capsys.readouterr().out
    assert printed.count("| a | 1000.0 | [1000.0, 1000.0] |") == 4
    assert printed.count("| b | 1000.0 | [1000.0, 1000.0] |") == 4


def test_failures_end_with_a_code_and_are_asked_again(dataset, results, capsys):
    def moody(request):
        if "kept what was not to be edited" in request.text and request.number == 0:
            return completion("Both are fine.")
        if "following the instruction" in request.text:
            return error(400, "content_filter", "filtered")
        return winner("Tie")

    with serving(moody) as server:
        given = (*flags(server, dataset, results), "--max_attempts=1")
        assert judge(*given) == 3
        table = capsys.readouterr().out
        assert [line.split()[-3] for line in table.splitlines() if "visual_con" in line] == ["8"]
        asked = len(server.questions)
        assert judge(*given[:-1]) == 0
        again = server.questions[asked:]
        assert len(again) == len(SAMPLES) * 2
        assert all("kept what was not to be edited" in one.text for one in again)
    verdicts, _ = read_pairs(results / "pairs" / "qwen3-vl")
    assert {one.winner for one in verdicts} == {"tie"}


def test_what_a_question_looks_like(dataset, results):
    with serving(prefer) as server:
        judge(*flags(server, dataset, results), "--limit=1", "--dimensions=visual_consistency")
        one, other = (request.body["messages"] for request in server.questions)
    assert [message["role"] for message in one] == ["user"]
    kinds = [part["type"] for part in one[-1]["content"]]
    assert kinds == ["text", "text", "image_url", "text", "image_url", "text", "image_url"]
    urls = [[part["image_url"]["url"] for part in messages[-1]["content"][2::2]]
            for messages in (one, other)]  # fmt: skip
    assert urls[0][0] == urls[1][0]
    assert urls[0][1:] == urls[1][:0:-1]  # the same two, changed about
    assert all(url.startswith("data:image/png;base64,") for url in urls[0])


@pytest.mark.parametrize("flag", ["--repeats=2", "--accept_single", "--protocol=area512"])
def test_flags_of_single_pictures_have_no_place(dataset, results, flag):
    with serving(prefer) as server, pytest.raises(UserError, match="leave it out"):
        judge(*flags(server, dataset, results), flag)


def test_nothing_to_rank_is_a_sentence(results):
    with pytest.raises(UserError, match="first run judge --against"):
        rank(f"--results={results}")


@pytest.mark.evaluation
def test_the_chart_is_drawn(dataset, results):
    pytest.importorskip("matplotlib", reason="needs the extra [evaluation]")
    with serving(prefer) as server:
        judge(*flags(server, dataset, results, against="b,c"))
    assert rank(f"--results={results}", f"--output={results / 'ranking'}") == 0
    assert Image.open(results / "ranking" / "rank.png").width == (3 + 4 * 2.5) * 120


@pytest.fixture
def people(tmp_path):
    """Pairs in VCReward-Bench's layout; people prefer the picture that `prefer` prefers not."""
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(6):
        for name in ("s", "one", "two"):
            picture(f"{name} {number}").save(folder / f"{name}{number}.png")
    rows = [
        {"key": f"k{i}", "task": "add" if i % 2 else "remove", "instruction": "add a hat",
         "source_image": f"s{i}.png", "edited_images": [f"one{i}.png", f"two{i}.png"],
         "winner": "Image A"}
        for i in range(6)
    ]  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_judge_is_checked_against_people(people, tmp_path, capsys):
    results = tmp_path / "results"
    with serving(lambda request: winner("Image A")) as server:
        given = (f"--dataset={people}", f"--results={results}", f"--endpoint={server.url}",
                 "--judge=pvc-judge")  # fmt: skip
        assert check(*given, "--dry_run") == 0
        assert "12 calls to make" in capsys.readouterr().out
        assert not results.exists()
        assert check(*given, "--limit=2") == 0
        assert len(server.questions) == 4
        assert check(*given) == 0
        assert len(server.questions) == 12
    folder = results / "judge_checks" / "pvc-judge"
    text = (folder / "check.md").read_text()
    assert text in capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("| visual_consistency | 6"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:8] == [
        "6", "6", "50.0 % [50.0, 50.0]", "0.0 % [0.0, 0.0]", "100.0 %", "0.0 %",
        "100.0 % [100.0, 100.0]",
    ]  # fmt: skip
    assert "| add | 3 | 50.0 % |" in text
    values = json.loads((folder / "check.json").read_text())
    assert values["facts"]["served_model"] == "toy-model"
    assert values["dimensions"][0]["orders"]["agreement"] == 0


def test_a_check_with_failures_ends_with_a_code(people, tmp_path):
    def refuse(request):
        return error(400, "content_filter", "filtered") if request.number == 0 else prefer(request)

    with serving(refuse) as server:
        assert (
            check(f"--dataset={people}", f"--results={tmp_path}", f"--endpoint={server.url}",
                  "--judge=pvc-judge", "--max_attempts=1", "--orders=one")
            == 3
        )  # fmt: skip
    assert len(server.questions) == 6
