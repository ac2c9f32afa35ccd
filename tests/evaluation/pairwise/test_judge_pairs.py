"""Pairs of pictures judged: what is asked, what is kept, what is never asked twice."""

import collections
import dataclasses
import io
import json
import time

import pytest
from PIL import Image

from step1x_jax.asking.ask import AskLimits
from step1x_jax.asking.exchange import NoReply, QuestionPicture
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, GEDIT_V2
from step1x_jax.evaluation.judging.presets import find_preset
from step1x_jax.evaluation.judging.tally import Prices, Tally
from step1x_jax.evaluation.pairwise.gallery import METADATA, read_gallery
from step1x_jax.evaluation.pairwise.judge_pairs import judge_pairs, plan_pairs, plan_run
from step1x_jax.evaluation.pairwise.pair_files import read_pairs
from step1x_jax.evaluation.pairwise.questions import ordered
from step1x_jax.evaluation.pairwise.ranking import rank
from step1x_jax.evaluation.samples import Sample, SampleId
from tests.evaluation.pairwise.made_up import MadeUp, always, by_name
from tests.evaluation.toy import picture, png, toy_samples, write_results

DIMENSIONS = [question.name for question in GEDIT_V2.questions]
LIMITS = AskLimits(max_attempts=2, concurrency=4, first_wait=0.001)
TASKS = GEDIT.tasks[:2]


@pytest.fixture
def samples():
    return toy_samples(per_task=2, tasks=TASKS, languages=("en",))


@pytest.fixture
def results(tmp_path, samples):
    for method in "abc":
        write_results(tmp_path / method, samples, salt=method)
    return tmp_path


def run_of(results, method="a", against=("b",), preset="gpt-4.1", benchmark=GEDIT, **options):
    options = {"source": next(iter(benchmark.pictures)), **options}
    return plan_run(
        benchmark, str(results), "judge", find_preset(preset), method, against, **options
    )


def judge_all(run, samples, judge):
    return judge_pairs(run, samples, judge, LIMITS, Tally(Prices()))[0]


def test_each_pair_is_asked_in_both_orders_in_each_dimension(results, samples):
    def late(ask):
        if ask.subject.first == "a":
            time.sleep(0.01)
        return by_name(ask)

    judge = MadeUp(late)
    verdicts = judge_all(run_of(results, against=("b", "c")), samples, judge)
    assert len(judge.asked) == len(verdicts) == 2 * len(samples) * 3 * 2
    seen = collections.Counter((v.dimension, v.first, v.second) for v in verdicts)
    pairs = (("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"))
    assert seen == {(d, *pair): len(samples) for d in DIMENSIONS for pair in pairs}
    assert {v.winner for v in verdicts if v.first == "a"} == {"first"}
    assert {v.winner for v in verdicts if v.first != "a"} == {"second"}
    # In the order of samples and questions, however the answers came.
    assert list(dict.fromkeys((v.task, v.language, v.key) for v in verdicts)) == [
        s.id for s in samples
    ]
    assert [v.dimension for v in verdicts[:4]] == 2 * [DIMENSIONS[0]] + 2 * [DIMENSIONS[1]]
    assert read_pairs(results / "pairs" / "judge")[0] == verdicts


def test_what_a_judge_sees(results, samples):
    large = Image.new("RGBA", (2048, 512), (255, 0, 0, 128))
    path = results / "b" / "fullset" / samples[0].id.task / "en" / f"{samples[0].id.key}.png"
    large.save(path)
    judge = MadeUp(always("Tie"))
    judge_all(run_of(results), samples[:1], judge)
    asks = {(ask.subject.dimension, ask.subject.first): ask for ask in judge.asked}
    for dimension, labels in (
        ("instruction_following", ["Source picture:", "Image A:", "Image B:"]),
        ("visual_quality", ["Image A:", "Image B:"]),
        ("visual_consistency", ["Source picture:", "Image A:", "Image B:"]),
    ):
        text, *rest = asks[dimension, "a"].parts
        assert rest[::2] == labels
        assert (samples[0].instruction in text) == (dimension != "visual_quality")
        sent = [Image.open(io.BytesIO(part.encode())) for part in rest[1::2]]
        assert all(image.format == "PNG" and image.mode == "RGB" for image in sent)
        assert sent[-1].size == (1024, 256)  # b's, its longer side shrunk
        assert sent[-2].size == (32, 24)  # a's, as it is
        turned = asks[dimension, "b"].parts
        assert [p.fingerprint for p in turned if isinstance(p, QuestionPicture)][-2:] == [
            rest[-1].fingerprint,
            rest[-3].fingerprint,
        ]


def test_nothing_is_paid_twice_and_a_new_method_pays_for_its_pairs_alone(results, samples):
    first = MadeUp(by_name)
    judge_all(run_of(results), samples, first)
    again = MadeUp(by_name)
    judge_all(run_of(results), samples, again)
    judge_all(run_of(results, "b", ("a",)), samples, again)  # the same pairs
    assert again.asked == []
    judge_all(run_of(results, "c", ("a", "b")), samples, again)
    assert len(again.asked) == 2 * len(first.asked)
    verdicts, facts = read_pairs(results / "pairs" / "judge")
    assert len(verdicts) == 3 * len(first.asked)
    assert facts["served_model"] == "m-1"
    assert facts["provider"] == "somebody"
    assert facts["benchmark"] == "gedit"
    elo = [score.method for score in rank(verdicts, resamples=2)[-1].scores]
    assert elo == ["a", "b", "c"]


def test_a_changed_picture_is_asked_about_again_and_old_verdicts_are_refused(results, samples):
    judge = MadeUp(by_name)
    judge_all(run_of(results, "a", ("b", "c")), samples, judge)
    count = len(judge.asked)
    write_results(results / "a", samples, salt="new")
    judge_all(run_of(results, "a", ("b",)), samples, judge)
    assert len(judge.asked) == count + count // 2
    verdicts, _ = read_pairs(results / "pairs" / "judge")
    with pytest.raises(UserError, match=r"the picture of a for .* changed"):
        rank(verdicts, resamples=2)
    judge_all(run_of(results, "a", ("c",)), samples, judge)
    assert rank(read_pairs(results / "pairs" / "judge")[0], resamples=2)


def test_failures_are_kept_apart_from_ties(results, samples):
    def decide(ask):
        verdict = ask.subject
        if verdict.dimension == "visual_quality":
            return "The winner is Image B."
        if verdict.first == "a" and verdict.dimension == "visual_consistency":
            return NoReply("timeout", again=False)
        return json.dumps({"winner": "Image A"})

    judge = MadeUp(decide)
    verdicts = judge_all(run_of(results), samples[:1], judge)
    found = {(v.dimension, v.first): (v.winner, v.failure) for v in verdicts}
    assert found == {
        ("instruction_following", "a"): ("first", ""),
        ("instruction_following", "b"): ("first", ""),
        ("visual_quality", "a"): (None, "unparsable"),
        ("visual_quality", "b"): (None, "unparsable"),
        ("visual_consistency", "a"): (None, "failed"),
        ("visual_consistency", "b"): ("first", ""),
    }
    # Two attempts of what cannot be read, one of what is hopeless, one of what counts.
    assert len(judge.asked) == 2 * 2 + 1 + 3
    rest, _ = read_pairs(results / "pairs" / "judge")
    assert sorted(map(repr, rest)) == sorted(map(repr, verdicts))


def test_identical_pictures_are_a_tie_unasked(results, samples):
    write_results(results / "copy", samples, salt="a")
    judge = MadeUp(always("Image A"))
    verdicts = judge_all(run_of(results, "a", ("copy",)), samples, judge)
    assert judge.asked == []
    assert {v.winner for v in verdicts} == {"tie"}
    judge_all(run_of(results, "b", ("a", "copy")), samples, judge)
    for table in rank(read_pairs(results / "pairs" / "judge")[0], resamples=5):
        assert {s.elo for s in table.scores} == {1000.0}
        assert table.orders.identical in (len(samples), 3 * len(samples))
        assert table.orders.agreement == 0  # of those that were asked


def test_missing_and_unreadable_pictures_are_counted(results, samples):
    places = [
        results / "b" / "fullset" / s.id.task / s.id.language / f"{s.id.key}.png" for s in samples
    ]
    places[0].unlink()
    places[1].write_bytes(b"no picture")
    judge = MadeUp(always("Tie"))
    verdicts, without = judge_pairs(run_of(results), samples, judge, LIMITS, Tally(Prices()))
    assert without == {
        "a": {"missing": 0, "unreadable": 0},
        "b": {"missing": 1, "unreadable": 1},
    }
    assert len(verdicts) == (len(samples) - 2) * 3 * 2
    assert read_pairs(results / "pairs" / "judge")[1]["pictures"] == without
    judge_all(run_of(results, "a", ("c",)), samples, judge)
    noted = read_pairs(results / "pairs" / "judge")[1]["pictures"]
    assert noted == without | {"c": {"missing": 0, "unreadable": 0}}  # b's stay


def test_a_dry_run_counts_and_asks_nothing(results, samples):
    judge = MadeUp(by_name)
    plan, without = plan_pairs(run_of(results, against=("b", "c")), samples, judge, LIMITS)
    assert (plan.calls, plan.kept) == (2 * len(samples) * 3 * 2, 0)
    assert plan.input_tokens > 0
    assert without["a"]["missing"] == 0
    assert judge.asked == []
    assert not (results / "pairs").exists()
    judge_all(run_of(results), samples, judge)
    plan, _ = plan_pairs(run_of(results, against=("b", "c")), samples, judge, LIMITS)
    assert (plan.calls, plan.kept) == (len(samples) * 3 * 2,) * 2
    one, _ = plan_pairs(run_of(results, "b", ("c",), orders="one"), samples, judge, LIMITS)
    assert one.calls == len(samples) * 3
    two = run_of(results, "b", ("c",), dimensions=("visual_quality",))
    assert plan_pairs(two, samples, judge, LIMITS)[0].calls == len(samples) * 2


def test_the_place_in_one_order_is_drawn():
    ids = [SampleId("task", "en", str(i)) for i in range(2000)]
    first = collections.Counter(ordered(one, "q", "a", "b", "one")[0] for one in ids)
    assert abs(first["a"] - 1000) < 4 * 22.4  # the standard deviation is sqrt(2000)/2
    # Other pairs and dimensions have draws of their own, whatever the methods' order.
    draws = [[ordered(s, d, x, y, "one")[0] == min(x, y) for s in ids]
             for d, x, y in (("q", "a", "b"), ("r", "a", "b"), ("q", "a", "c"))]  # fmt: skip
    for one, other in ((0, 1), (0, 2)):
        same = sum(a == b for a, b in zip(draws[one], draws[other], strict=True))
        assert abs(same - 1000) < 4 * 22.4
    assert ordered(ids[0], "q", "b", "a", "one") == ordered(ids[0], "q", "a", "b", "one")


def test_other_settings_in_one_folder_are_refused(results, samples):
    judge_all(run_of(results), samples, MadeUp(by_name))
    with pytest.raises(UserError, match=r"with parameters .* give another --judge_name"):
        judge_all(run_of(results), samples, MadeUp(by_name, model="other"))
    with pytest.raises(UserError, match=r"with judge 'gpt-4\.1'"):
        judge_all(run_of(results, preset="qwen3-vl"), samples, MadeUp(by_name))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"against": ("a",)}, "which is the method itself"),
        ({"against": ("../b",)}, "no name of a file"),
        ({"against": ("pairs",)}, "no method can be called pairs"),
        ({"dimensions": ("beauty",)}, "beauty is none of instruction_following"),
    ],
)
def test_what_cannot_be_compared_is_refused(results, options, words):
    with pytest.raises(UserError, match=words):
        run_of(results, **options)


def test_a_function_compares_nothing(results):
    preset = dataclasses.replace(find_preset("gpt-4.1"), name="module:function")
    with pytest.raises(UserError, match="scores pictures one by one"):
        plan_run(GEDIT, str(results), "j", preset, "a", ("b",), source="input_image")


def test_methods_without_a_common_picture_are_refused(results, samples):
    with pytest.raises(UserError, match="no sample has pictures of both a and nobody"):
        judge_all(run_of(results, against=("nobody",)), samples, MadeUp(by_name))


def test_a_gallery_is_judged_and_its_list_written(tmp_path):
    samples = [
        Sample(SampleId("text", "", f"text_{i:06d}"), "add a hat",
               {"source_image": lambda i=i: png(picture(str(i)))})
        for i in range(3)
    ]  # fmt: skip
    for method in ("a", "images/edited/b"):
        (tmp_path / method).mkdir(parents=True)
        for sample in samples:
            picture(method + sample.id.key).save(tmp_path / method / f"{sample.id.key}.png")
    listed = [{"key": s.id.key, "source_image": "x.png",
               "candidates": [{"model": "b", "image": f"images/edited/b/{s.id.key}.png"}]}
              for s in samples[:2]]  # fmt: skip
    (tmp_path / METADATA).write_text("".join(json.dumps(row) + "\n" for row in listed))
    judge = MadeUp(by_name)
    run = run_of(tmp_path, benchmark=GEDIT_V2)
    verdicts, without = judge_pairs(run, samples, judge, LIMITS, Tally(Prices()))
    assert len(verdicts) == 2 * 3 * 2
    assert without["b"] == {"missing": 1, "unreadable": 0}
    gallery = read_gallery(tmp_path)
    assert [sorted(gallery[s.id.key]) for s in samples] == [["a", "b"], ["a", "b"], ["a"]]
    assert gallery["text_000000"]["a"].name == "text_000000.png"
    first = json.loads((tmp_path / METADATA).read_text().splitlines()[0])
    assert first["source_image"] == "x.png"
