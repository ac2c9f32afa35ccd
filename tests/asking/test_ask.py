import collections
import threading
import time

import pytest

from step1x_jax.asking.ask import (
    MOST_SILENT,
    AskLimits,
    ask_all,
    guess_tokens,
    plan_asking,
)
from step1x_jax.asking.cache import open_cache
from step1x_jax.asking.exchange import Ask, NoReply, QuestionPicture, Reply, Served
from step1x_jax.asking.pace import Pace, backoff
from step1x_jax.asking.pool import Stopped, Stopping
from step1x_jax.errors import UserError

OTHERWISE = "ask in another folder"
QUICK = AskLimits(max_attempts=3, concurrency=4, first_wait=0.001)


class ScriptedModel:
    """Replies as a script says: from a question and the number of the call to it."""

    def __init__(self, script):
        self.parameters = {"model": "m"}
        self.script = script
        self.calls = collections.Counter()
        self.attempts = []
        self.most = self.now = 0
        self.lock = threading.Lock()

    def describe(self):
        return Served()

    def answer(self, ask, attempt):
        with self.lock:
            number = self.calls[ask.id]
            self.calls[ask.id] += 1
            self.attempts.append(attempt)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            result = self.script(ask, number)
        finally:
            with self.lock:
                self.now -= 1
        if isinstance(result, Exception):
            raise result
        return result if isinstance(result, Reply) else Reply(result, "stop", model="m")


def parse(ask, text):
    return int(text) if text.isdecimal() else None


def asks(*ids):
    return [Ask(name, (f"about {name}",)) for name in ids]


def run(folder, model, questions, limits=QUICK):
    with open_cache(folder, OTHERWISE) as cache:
        answers = list(ask_all(questions, model, cache, limits, parse))
    assert len(answers) == len(questions)
    return {(answer.id, answer.ask.repeat): answer for answer in answers}


def statuses(answers):
    return {name: answer.status for (name, _), answer in answers.items()}


def test_every_question_is_answered_once_and_never_again(tmp_path):
    model = ScriptedModel(lambda ask, number: time.sleep(0.005) or ask.id)
    questions = asks(*map(str, range(30)))
    answers = run(tmp_path, model, questions)
    assert {answer.value for answer in answers.values()} == set(range(30))
    assert model.calls.total() == 30
    assert 1 < model.most <= QUICK.concurrency
    assert all(answer.paid == 1 for answer in answers.values())
    again = run(tmp_path, model, questions)
    assert model.calls.total() == 30
    assert all(answer.paid == 0 for answer in again.values())
    assert {name: one.value for name, one in again.items()} == {
        name: one.value for name, one in answers.items()
    }


def test_what_does_not_count_is_asked_again_up_to_the_limit(tmp_path):
    scripts = {
        "good": ["7"],
        "later": ["hm", "8"],
        "never": ["hm"] * 9,
        "refused": [Reply("", refused=True)] * 9,
        "once refused": [Reply("", refused=True), "9"],
        "down": [NoReply("down", again=True)] * 9,
        "broken": [NoReply("too large", again=False)] * 9,
        "shaky": [NoReply("down", again=True), "hm", "4"],
        "last down": ["hm", "hm", NoReply("down", again=True)],
    }
    model = ScriptedModel(lambda ask, number: scripts[ask.id][number])
    answers = run(tmp_path, model, asks(*scripts))
    assert statuses(answers) == {
        "good": "ok",
        "later": "ok",
        "never": "unparsable",
        "refused": "refused",
        "once refused": "ok",
        "down": "failed",
        "broken": "failed",
        "shaky": "ok",
        "last down": "failed",
    }
    assert model.calls == {
        "good": 1,
        "later": 2,
        "never": 3,
        "refused": 3,
        "once refused": 2,
        "down": 3,
        "broken": 1,
        "shaky": 3,
        "last down": 3,
    }
    assert answers["later", 0].value == 8
    assert answers["never", 0].reason == "hm"
    assert answers["down", 0].reason == "down"
    # Kept replies were attempts: only what had none, or had one attempt without any, is asked.
    model.calls.clear()
    run(tmp_path, model, asks(*scripts))
    assert model.calls == {"down": 3, "broken": 1, "last down": 1}


def test_more_attempts_go_on_from_the_kept_replies(tmp_path):
    model = ScriptedModel(lambda ask, number: ["a", "b", "3", "d"][number])
    assert statuses(run(tmp_path, model, asks("x"), AskLimits(max_attempts=2))) == {
        "x": "unparsable"
    }
    answers = run(tmp_path, model, asks("x"), AskLimits(max_attempts=4))
    assert model.attempts == [0, 1, 2]
    assert answers["x", 0].value == 3
    assert [reply.text for reply in answers["x", 0].replies] == ["a", "b", "3"]
    assert answers["x", 0].paid == 1


def test_kept_replies_are_read_anew_and_the_first_that_counts_decides(tmp_path):
    model = ScriptedModel(lambda ask, number: ["a 5", "b", "c"][number])
    assert statuses(run(tmp_path, model, asks("x"))) == {"x": "unparsable"}
    with open_cache(tmp_path, OTHERWISE) as cache:
        (answer,) = ask_all(asks("x"), model, cache, QUICK, lambda ask, text: parse(ask, text[-1]))
    assert (answer.status, answer.value, len(answer.replies)) == ("ok", 5, 1)
    assert model.calls.total() == 3


def test_repeats_are_questions_of_their_own_and_equal_questions_are_one(tmp_path):
    model = ScriptedModel(lambda ask, number: time.sleep(0.02) or str(number))
    same = [Ask(f"q{i}", ("the same",)) for i in range(5)]
    repeats = [Ask("r", ("the same",), repeat=n) for n in range(1, 4)]
    answers = run(tmp_path, model, same + repeats)
    assert model.calls.total() == 4
    assert sum(answer.paid for answer in answers.values()) == 4
    assert set(statuses(answers).values()) == {"ok"}


def test_equal_questions_of_which_the_first_got_no_reply(tmp_path):
    def script(ask, number):
        return NoReply("down", again=False) if model.calls.total() == 1 else "5"

    model = ScriptedModel(script)
    answers = run(tmp_path, model, [Ask(f"q{i}", ("the same",)) for i in range(3)])
    assert sorted(statuses(answers).values()) == ["failed", "ok", "ok"]
    assert model.calls.total() == 2


def test_the_run_stops_at_once_and_keeps_what_came(tmp_path):
    def script(ask, number):
        if ask.id == "2":
            raise UserError("no money left; pay.")
        return "1"

    model = ScriptedModel(script)
    with pytest.raises(UserError, match="no money"):
        run(tmp_path, model, asks(*map(str, range(500))))
    assert model.calls.total() <= 2 + 3 * QUICK.concurrency
    done = model.calls.total() - 1
    model.script = lambda ask, number: "1"
    run(tmp_path, model, asks(*map(str, range(500))))
    assert model.calls.total() == done + 1 + 500 - done


def test_a_model_that_is_not_there_ends_the_run(tmp_path):
    model = ScriptedModel(lambda ask, number: NoReply("refused to connect", again=True))
    with pytest.raises(UserError, match=rf"{MOST_SILENT} questions in a row .* refused to connect"):
        run(tmp_path, model, asks(*map(str, range(500))))
    assert len(model.calls) <= MOST_SILENT + 2 * QUICK.concurrency


def test_single_failures_do_not(tmp_path):
    bad = {str(i) for i in range(500) if i % 10}

    def script(ask, number):
        return NoReply("too large", again=False) if ask.id in bad else "1"

    one_by_one = AskLimits(concurrency=1)
    answers = run(tmp_path, ScriptedModel(script), asks(*map(str, range(500))), one_by_one)
    assert collections.Counter(statuses(answers).values()) == {"ok": 50, "failed": 450}


def test_another_model_ends_the_run_and_is_not_kept(tmp_path):
    model = ScriptedModel(lambda ask, number: Reply("1", model="m" if int(ask.id) < 10 else "n"))
    with pytest.raises(UserError, match=r"as 'n', and as 'm' before"):
        run(tmp_path, model, asks(*map(str, range(100))))
    with open_cache(tmp_path, OTHERWISE) as cache:
        assert {reply.model for reply in cache.every()} == {"m"}
        assert 10 - QUICK.concurrency <= len(cache.every()) <= 10


def test_a_wait_that_the_server_wants_holds_everybody(tmp_path):
    times = []

    def script(ask, number):
        times.append(time.monotonic())
        return NoReply("busy", again=True, wait=0.3) if len(times) == 1 else "1"

    run(
        tmp_path, ScriptedModel(script), asks("0", "1", "2"), AskLimits(concurrency=1, first_wait=0)
    )
    assert times[1] - times[0] >= 0.3
    assert times[3] - times[1] < 0.55  # it held once, not three times
    with pytest.raises(UserError, match="wants a wait of 86400 s"):
        run(
            tmp_path,
            ScriptedModel(lambda ask, number: NoReply("busy", again=True, wait=86400)),
            asks("late"),
        )


def test_a_hanging_model_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("step1x_jax.asking.pool.GRACE", 0.2)
    gone = threading.Event()

    def script(ask, number):
        if ask.id == "hangs":
            gone.wait(30)
        elif ask.id == "wrong":
            raise UserError("wrong key.")
        return "1"

    begun = time.monotonic()
    with pytest.raises(UserError, match="wrong key"):
        run(tmp_path, ScriptedModel(script), asks("hangs", "wrong"))
    assert time.monotonic() - begun < 15
    gone.set()
    time.sleep(0.05)
    with open_cache(
        tmp_path, OTHERWISE
    ) as cache:  # what came too late is not written into another's file
        assert cache.every() == []


def test_requests_per_minute():
    pace, stopping = Pace(1200, 600), Stopping()
    begun = time.monotonic()
    times = []

    def ask():
        for _ in range(4):
            pace.wait(stopping)
            times.append(time.monotonic() - begun)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    assert all(times[i] >= 0.05 * i - 1e-3 for i in range(8))  # clocks tick in less than 1 ms
    assert times[-1] < 5


def test_waiting_ends_with_the_run():
    stopping = Stopping()
    threading.Timer(0.05, stopping.set).start()
    pace = Pace(0, 600)
    pace.hold(500, "busy")
    begun = time.monotonic()
    with pytest.raises(Stopped):
        pace.wait(stopping)
    assert time.monotonic() - begun < 15


def test_waits_grow_to_a_bound_and_are_spread():
    for failures, mean in ((0, 2), (1, 4), (2, 8), (3, 10), (5000, 10)):
        waits = [backoff(failures, 2, 10) for _ in range(200)]
        assert mean / 2 <= min(waits) < 0.8 * mean
        assert 1.2 * mean < max(waits) <= 1.5 * mean


def test_a_plan_counts_what_would_be_asked(tmp_path):
    model = ScriptedModel(
        lambda ask, number: Reply("1", model="m", input_tokens=70, output_tokens=7)
    )
    picture = QuestionPicture("p", bytes, pixels=28 * 28 * 10)
    questions = [Ask(f"q{i}", ("x" * 40 + str(i), picture)) for i in range(10)]
    assert guess_tokens(questions[0]) == 20
    with open_cache(tmp_path, OTHERWISE) as cache:
        plan = plan_asking(questions + questions[:2], model, cache, QUICK, parse)
        assert (plan.calls, plan.kept, plan.input_tokens) == (10, 2, 200)
        assert len(list(ask_all(questions[:4], model, cache, QUICK, parse))) == 4
        plan = plan_asking(questions, model, cache, QUICK, parse)
        assert (plan.calls, plan.kept) == (6, 4)
        assert (plan.input_tokens, plan.output_tokens) == (420, 42)  # as replies so far
    assert model.calls.total() == 4
