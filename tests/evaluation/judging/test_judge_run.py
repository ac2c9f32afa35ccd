import collections
import dataclasses
import json
import math
import re

import pytest

from step1x_jax.asking.ask import AskLimits
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, IMGEDIT
from step1x_jax.evaluation.judgement_files import judge_folder, read_judgements
from step1x_jax.evaluation.judging.judge_run import JudgeRun, judge_pictures, plan_judging
from step1x_jax.evaluation.judging.judges import limits_for, open_judge, preset_of
from step1x_jax.evaluation.judging.prompts import read_prompts
from step1x_jax.evaluation.judging.questions import source_column
from step1x_jax.evaluation.judging.tally import Prices, Tally, describe_plan
from step1x_jax.evaluation.samples import Sample, SampleId
from tests.asking.chat_server import Response, completion, error, serving
from tests.evaluation.toy import picture, png, toy_samples, write_results

LIMITS = AskLimits(max_attempts=3, concurrency=4, first_wait=0.001)
SAMPLES = toy_samples(1, tasks=("ps_human", "tone_transfer"))  # four


def scores_of(request):
    """Two numbers that follow from the pictures, so that each picture has its own."""
    number = sum(map(ord, "".join(request.pictures)))
    return [number % 11, (number // 11) % 11]


def honest(request):
    return completion(json.dumps({"score": scores_of(request), "reasoning": "x"}))


@pytest.fixture
def method(tmp_path):
    return write_results(tmp_path / "mine", SAMPLES, "mine")


def judge(method, url, samples=SAMPLES, name="toy", preset="qwen2.5-vl-72b", **changes):
    """Judges; gives the judgements and the tally."""
    run = judge_run(method, url, name, preset, **changes)
    limits = limits_for(run.preset, LIMITS)
    tally = Tally(Prices(1.0, 10.0))
    with open_judge(run.preset, 5.0) as opened:
        plan, _ = plan_judging(run, samples, opened, limits)
        judgements = judge_pictures(run, samples, opened, limits, tally)
    judge.plan = plan
    return judgements, tally


def judge_run(method, url, name="toy", preset="qwen2.5-vl-72b", benchmark=GEDIT, **changes):
    preset = preset_of(preset, endpoint=url)
    run = JudgeRun(
        benchmark=benchmark,
        method_folder=method,
        folder=judge_folder(method, name),
        preset=preset,
        prompts=read_prompts(benchmark),
        protocol=preset.protocol,
        source=source_column(benchmark, preset.protocol),
    )
    return dataclasses.replace(run, **changes)


def test_each_sample_has_the_numbers_of_its_own_pictures(method):
    with serving(honest) as server:
        judgements, tally = judge(method, server.url)
        assert len(server.questions) == 8 == judge.plan.calls
        asked = collections.Counter(len(one.pictures) for one in server.questions)
    assert asked == {2: 4, 1: 4}
    assert [one.id for one in judgements] == [sample.id for sample in SAMPLES]
    assert all(one.status == "ok" and one.intersection for one in judgements)
    by_text = {one.text: one for one in server.questions if len(one.pictures) == 2}
    for sample, one in zip(SAMPLES, judgements, strict=True):
        (text,) = (text for text in by_text if sample.instruction in text)
        assert one.scores["semantics"] == tuple(map(float, scores_of(by_text[text])))
        (edited,) = (q for q in server.questions if q.pictures == by_text[text].pictures[1:])
        assert one.scores["quality"] == tuple(map(float, scores_of(edited)))
    assert (tally.calls, tally.input_tokens, tally.output_tokens) == (8, 800, 80)
    assert str(tally).endswith("0.00 USD")
    assert tally.prices.dollars(800, 80) == pytest.approx(0.0016)


def test_what_is_written_comes_back_and_costs_nothing_again(method):
    models = Response(
        200,
        {
            "data": [
                {
                    "id": "Qwen/Qwen2.5-VL-72B-Instruct-AWQ",
                    "owned_by": "vllm",
                    "quantization": "awq",
                    "shutdown_date": "2027-01-14",
                }
            ]
        },
    )
    with serving(honest, models) as server:
        judgements, _ = judge(method, server.url)
        host = server.url.split("/")[2]
        written = (judge_folder(method, "toy") / "judgements.jsonl").read_bytes()
        again, tally = judge(method, server.url)
        assert len(server.questions) == 8
    assert again == judgements
    assert tally.calls == 0
    assert (judge_folder(method, "toy") / "judgements.jsonl").read_bytes() == written
    there, facts = read_judgements(judge_folder(method, "toy"))
    assert there == judgements
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts.pop("date"))
    assert re.fullmatch("[0-9a-f]{12}", facts.pop("prompt_hash"))
    assert facts == {
        "judge": "qwen2.5-vl-72b",
        "model": "Qwen/Qwen2.5-VL-72B-Instruct-AWQ",
        "parameters": "max_tokens 512, temperature 0",
        "benchmark": "gedit",
        "source": "input_image_raw",
        "protocol": "area512",
        "accept_single": False,
        "served_model": "toy-model",
        "endpoint": host,
        "provider": "vllm",
        "quantisation": "awq",
        "shutdown_date": "2027-01-14",
        "prompts": "ours",
        "repeats": 1,
    }


def test_failures_are_told_apart_counted_and_never_scored(tmp_path):
    samples = toy_samples(1)[:20]
    method = write_results(tmp_path / "mine", samples, "mine")
    names = [sample.instruction for sample in samples]
    folder = [method / "fullset" / s.id.task / s.id.language for s in samples]
    next(folder[0].glob("*.png")).unlink()
    next(folder[1].glob("*.png")).write_bytes(b"no picture")
    scripts = {
        names[2]: completion("It looks fine to me."),
        names[3]: completion("7"),
        names[4]: completion('{"score": [11, 10]}'),
        names[5]: completion('{"score": [7, 8'),
        names[6]: error(400, "content_filter"),
        names[7]: error(500),
        names[8]: completion('{"score": [NaN, 3]}'),
        names[9]: completion('{"score": [1, 2, 3]}'),
    }

    def script(request):
        return next((r for name, r in scripts.items() if f": {name}\n" in request.text), None) or (
            honest(request)
        )

    with serving(script) as server:
        judgements, tally = judge(method, server.url, samples)
        # two questions of 10 good ones, three attempts and one of quality of the 8 bad ones
        assert len(server.questions) == 10 * 2 + 8 * (3 + 1)
        assert [one.status for one in judgements[:10]] == [
            "missing",
            "unreadable",
            "unparsable",
            "unparsable",
            "unparsable",
            "unparsable",
            "refused",
            "failed",
            "unparsable",
            "unparsable",
        ]
        assert {one.status for one in judgements[10:]} == {"ok"}
        assert all("semantics" not in one.scores for one in judgements[:10])
        assert [len(one.scores) for one in judgements[:4]] == [0, 0, 1, 1]
        assert judgements[2].reason == "It looks fine to me."
        assert "status 500" in judgements[7].reason
        assert tally.statuses == {"ok": 28, "unparsable": 6, "refused": 1, "failed": 1}
        # Again: only what had no reply is asked.
        judge(method, server.url, samples)
        assert len(server.questions) == 10 * 2 + 8 * (3 + 1) + 3
        assert judge.plan.calls == 1
        # One number counts where it is said to: no reply is needed for that.
        single, _ = judge(method, server.url, samples[3:4], name="single", accept_single=True)
        assert single[0].status == "ok"
        assert single[0].scores["semantics"] == (7.0, 7.0)


def test_repeats(method):
    with serving(honest) as server:
        once, _ = judge(method, server.url)
        thrice, _ = judge(method, server.url, repeats=3)
        assert len(server.questions) == 24
        assert [one for one in thrice if one.repeat == 0] == once
        assert [one.repeat for one in thrice] == [0, 1, 2] * 4
        assert read_judgements(judge_folder(method, "toy"))[1]["repeats"] == 3


def test_other_samples_stay(method):
    with serving(honest) as server:
        judge(method, server.url, SAMPLES[:2])
        judge(method, server.url, SAMPLES[2:])
        there, _ = read_judgements(judge_folder(method, "toy"))
        assert sorted(one.id for one in there) == sorted(sample.id for sample in SAMPLES)
        judge(method, server.url, SAMPLES)
        assert len(server.questions) == 8


def test_a_picture_that_changed_is_asked_about_again(method):
    with serving(honest) as server:
        judge(method, server.url)
        task, language, key = SAMPLES[1].id
        picture("other").save(method / "fullset" / task / language / f"{key}.png")
        judge(method, server.url)
        assert len(server.questions) == 8 + 2


def test_other_settings_need_another_name(method, tmp_path):
    with serving(honest) as server:
        judge(method, server.url)
        count = len(server.questions)
        for name, changes in (
            ("source", {"protocol": "source_size", "source": "input_image"}),
            ("accept_single", {"accept_single": True}),
            ("judge", {"preset": preset_of("qwen3-vl", endpoint=server.url)}),
            ("model", {"preset": preset_of("qwen2.5-vl-72b", endpoint=server.url, model="b")}),
        ):
            run = judge_run(method, server.url)
            run = dataclasses.replace(run, **changes)
            with (
                open_judge(run.preset, 5) as opened,
                pytest.raises(UserError, match=f"judgements with {name} .*--judge_name"),
            ):
                judge_pictures(run, SAMPLES, opened, LIMITS, Tally(Prices()))
        assert len(server.questions) == count


def test_protocols_and_orders_send_what_they_say(method):
    samples = SAMPLES[:1]
    with serving(honest) as server:
        judge(method, server.url, samples, name="a")
        judge(method, server.url, samples, name="b", protocol="source_size", source="input_image")
        judge(method, server.url, samples, name="c", preset="gpt-4.1")
        first = [one.body["messages"][0]["content"] for one in server.questions]
    kinds = [[part["type"] for part in parts] for parts in sorted(first, key=len)]
    pictures_first = ["image_url", "image_url", "text"], ["image_url", "text"]
    text_first = ["text", "image_url", "image_url"], ["text", "image_url"]
    assert sorted(kinds) == sorted([*pictures_first * 2, *text_first])
    sizes = collections.Counter(
        (size, one.pictures[0][11:15]) for one in server.questions for size in sizes_of(one)
    )
    around = (591, 443)  # of 512 x 512 pixels in 4:3
    assert sizes == {(around, "png;"): 3, ((32, 24), "png;"): 3, (around, "jpeg"): 3}


def sizes_of(request):
    import base64
    import io

    from PIL import Image

    for url in request.pictures:
        yield Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size


def test_imgedit_asks_one_question_of_three_whole_numbers(tmp_path):
    samples = [
        Sample(
            SampleId(task, "", str(number)),
            f"instruction {number}",
            {"input_image": lambda: png(picture("source"))},
        )
        for number, task in enumerate(("add", "remove", "alter", "style"))
    ]
    for sample in samples:
        (tmp_path / "mine").mkdir(exist_ok=True)
        picture(sample.id.key).save(tmp_path / "mine" / f"{sample.id.key}.webp")
    replies = {"0": [1, 2, 5], "1": [1, 2.5, 3], "2": [1, 2], "3": [5, 5, 5]}

    def script(request):
        number = re.search(r"instruction (\d)", request.text)[1]
        assert "{" not in request.text.replace('{"score": [first', "")
        return completion(json.dumps({"score": replies[number]}))

    with serving(script) as server:
        judgements, _ = judge(tmp_path / "mine", server.url, samples, benchmark=IMGEDIT)
    assert [one.status for one in judgements] == ["ok", "unparsable", "unparsable", "ok"]
    assert judgements[0].scores == {"edit": (1.0, 2.0, 5.0)}
    assert judgements[0].intersection is None


def test_a_benchmark_may_ask_some_tasks_less(method):
    semantics, quality = GEDIT.questions
    quality = dataclasses.replace(quality, tasks=("ps_human",))
    benchmark = dataclasses.replace(GEDIT, questions=(semantics, quality))
    with serving(honest) as server:
        judgements, tally = judge(method, server.url, benchmark=benchmark)
        assert len(server.questions) == tally.calls == judge.plan.calls == 6
    for one in judgements:
        asked = ["semantics", "quality"] if one.id.task == "ps_human" else ["semantics"]
        assert sorted(one.scores) == sorted(asked)
        assert one.status == "ok"


def test_reasoning_is_taken_away_by_preset_alone(method):
    def script(request):
        assert ("response_format" in request.body) == (request.body["model"] != QWEN_2_5)
        return completion('<think>{"score": [1, 1]} or so</think>{"score": [9, 9]}')

    QWEN_2_5 = preset_of("qwen2.5-vl-72b").model
    with serving(script) as server:
        with_thoughts, _ = judge(method, server.url, name="a", preset="qwen3-vl")
        without, _ = judge(method, server.url, name="b")
    assert with_thoughts[0].scores["semantics"] == (9.0, 9.0)
    assert without[0].status == "unparsable"


def test_what_cannot_be_judged_is_one_sentence(method, tmp_path):
    with serving(honest) as server:
        with pytest.raises(UserError, match="none does not exist"):
            judge(tmp_path / "none", server.url)
        broken = dataclasses.replace(SAMPLES[0], pictures={"input_image_raw": lambda: b"x"})
        with pytest.raises(UserError, match="the source of ps_human/en"):
            judge(method, server.url, [broken])


def test_a_function_judges(method):
    place = f"{__name__}:score"
    judgements, tally = judge(method, "", name="reward", preset=place)
    assert [one.status for one in judgements] == ["ok"] * 4
    assert judgements[0].scores == {"semantics": (3.0, 2.5), "quality": (4.0, 8.0)}
    assert tally.calls == 4
    facts = read_judgements(judge_folder(method, "reward"))[1]
    assert (facts["judge"], facts["model"], facts["protocol"]) == (place, place, "original")
    _, tally = judge(method, "", name="reward", preset=place)
    assert tally.calls == 0  # it is not computed twice


def score(source, edited, instruction):
    """Numbers that tell what it was given."""
    assert source.mode == edited.mode == "RGB"
    assert source.size == (64, 48)
    assert instruction.startswith(("make it", "把它"))
    return {"semantics": [3, 2.5], "quality": [math.sqrt(edited.width // 2), 8]}


def broken(source, edited, instruction):
    raise RuntimeError("no memory")


def one_question(source, edited, instruction):
    return {"semantics": [3, 2]}


def too_high(source, edited, instruction):
    return {"semantics": [3, 20], "quality": [1, 1]}


@pytest.mark.parametrize(
    ("name", "status"),
    [("broken", "failed"), ("one_question", "unparsable"), ("too_high", "unparsable")],
)
def test_a_function_that_fails(method, name, status):
    judgements, _ = judge(method, "", name="reward", preset=f"{__name__}:{name}")
    assert [one.status for one in judgements] == [status] * 4
    assert all(one.scores == {} for one in judgements)


@pytest.mark.parametrize("place", ["no.such.module:f", f"{__name__}:nothing", f"{__name__}:LIMITS"])
def test_a_function_that_is_not_there(place):
    with pytest.raises(UserError, match="--judge="), open_judge(preset_of(place), 5):
        pass


def test_a_plan_in_words(method):
    with serving(honest) as server:
        run = judge_run(method, server.url)
        with open_judge(run.preset, 5) as opened:
            plan, without = plan_judging(run, SAMPLES, opened, LIMITS)
        assert server.requests == []
    assert without == {}
    assert not run.folder.exists()
    text = describe_plan(plan, Prices(2, 8))
    assert text.startswith("8 calls to make, 0 questions answered before; about ")
    assert text.endswith(" USD")
    assert "USD" not in describe_plan(plan, Prices())
