"""Asking a model many questions: bounded attempts, nothing paid twice, every reply kept.

What is asked, and of whom, is not known here: the caller makes the questions (`Ask`), a
`Respondent` answers one of them once, `parse` says whether its reply counts.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Literal, TypeVar

from step1x_jax.asking.cache import ReplyCache, cache_key
from step1x_jax.asking.exchange import Ask, NoReply, QuestionPicture, Reply, Respondent
from step1x_jax.asking.pace import Pace, backoff
from step1x_jax.asking.pool import Stopping, WorkerPool
from step1x_jax.errors import UserError
from step1x_jax.json_files import SHOWN

T = TypeVar("T")
MOST_SILENT = 20  # questions in a row without any reply: nobody is there
LETTERS_A_TOKEN = 4  # of English
PIXELS_A_TOKEN = 28 * 28  # of Qwen2.5-VL; others are within a factor of two
OUTPUT_TOKENS = 100  # of a reply in one sentence

# ok: a reply counts.           unparsable: it does not, for what it says.
# refused: by a content filter. failed: there was none, as after timeouts.
AnswerStatus = Literal["ok", "unparsable", "refused", "failed"]


@dataclasses.dataclass(frozen=True)
class AskResult(Generic[T]):
    """What became of a question.

    Attributes:
      ask: the question.
      status: see AnswerStatus; that of the last attempt, unless an earlier one counts.
      value: what `parse` made of the reply that counts; None unless the status is "ok".
      reason: why there is none, in a few words.
      replies: all to this question, in their order; the last one is the one that counts.
      paid: how many of these, from the end, were got now; the others were kept.
    """

    ask: Ask
    status: AnswerStatus
    value: T | None
    reason: str = ""
    replies: tuple[Reply, ...] = ()
    paid: int = 0

    @property
    def id(self) -> str:
        """That of the question."""
        return self.ask.id


@dataclasses.dataclass(frozen=True)
class AskLimits:
    """How a model is asked, over a network that fails.

    Attributes:
      max_attempts: of each question, whatever became of them; kept replies count.
      concurrency: questions at a time.
      requests_per_minute: 0: as many as there are answers.
      first_wait: seconds after a first failure, about; doubled after each further one.
      longest_wait: seconds up to which that grows.
      longest_hold: seconds that a server may ask to wait before the run ends instead.
    """

    max_attempts: int = 5
    concurrency: int = 8
    requests_per_minute: float = 0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_hold: float = 600.0


def ask_all(
    questions: Iterable[Ask],
    respondent: Respondent,
    cache: ReplyCache,
    limits: AskLimits,
    parse: Callable[[Ask, str], T | None],
) -> Iterator[AskResult[T]]:
    """Ask all questions, several at a time; what is in the cache is not asked again.

    Args:
      questions: taken one by one as they are needed.
      respondent: whom.
      cache: open; every reply is added.
      limits: how often and how fast.
      parse: makes a value of a reply's text, or None if it does not count; raises nothing.

    Yields:
      An answer to each question, as they come.

    Raises:
      UserError: a reason for which no further question would be answered; replies that came until
        then are kept.
    """
    pace = Pace(limits.requests_per_minute, limits.longest_hold)
    twins: dict[str, deque[Ask]] = {}  # same questions as those that are being asked, by key
    silent = 0  # questions in a row that had no reply

    def attempt(ask: Ask, stopping: Stopping) -> AskResult[T]:
        return _attempt_all(ask, respondent, cache, limits, parse, pace, stopping)

    with WorkerPool(attempt, limits.concurrency) as pool:

        def finish() -> Iterator[AskResult[T]]:
            nonlocal silent
            answer = pool.next()
            silent = silent + 1 if answer.status == "failed" and not answer.paid else 0
            if silent >= MOST_SILENT:
                raise UserError(
                    f"{silent} questions in a row got no reply, the last one for this reason:"
                    f" {answer.reason}; look at the server, then run this again."
                )
            yield answer
            key = cache_key(answer.ask, respondent.parameters)
            while twins[key]:
                known = _known(twins[key][0], key, cache, limits, parse)
                if known is None:  # there was no reply: the next one has its own attempts
                    pool.submit(twins[key].popleft())
                    return
                twins[key].popleft()
                yield known
            del twins[key]

        for ask in questions:
            key = cache_key(ask, respondent.parameters)
            if key in twins:
                twins[key].append(ask)
            elif (known := _known(ask, key, cache, limits, parse)) is not None:
                yield known
            else:
                twins[key] = deque()
                pool.submit(ask)
            while pool.full:
                yield from finish()
        while pool.busy:
            yield from finish()


@dataclasses.dataclass(frozen=True)
class AskEstimate:
    """What `ask_all` would have to ask, if each question is answered at its first attempt.

    Attributes:
      calls: requests to the model.
      kept: questions whose answer is known.
      input_tokens: of these calls, about.
      output_tokens: of these calls, about.
    """

    calls: int
    kept: int
    input_tokens: int
    output_tokens: int


def plan_asking(
    questions: Iterable[Ask],
    respondent: Respondent,
    cache: ReplyCache,
    limits: AskLimits,
    parse: Callable[[Ask, str], T | None],
) -> AskEstimate:
    """What `ask_all` with the same arguments would have to ask; nothing is asked.

    Tokens are taken from the replies that are there, otherwise guessed from lengths and pixels.
    """
    keys = set()
    kept = guessed = 0
    for ask in questions:
        key = cache_key(ask, respondent.parameters)
        if key in keys or _known(ask, key, cache, limits, parse) is not None:
            kept += 1
        else:
            keys.add(key)
            guessed += guess_tokens(ask)
    counted = [reply for reply in cache.every() if reply.input_tokens]
    if not counted:
        return AskEstimate(len(keys), kept, guessed, len(keys) * OUTPUT_TOKENS)
    each = len(keys) / len(counted)
    return AskEstimate(
        len(keys),
        kept,
        round(each * sum(reply.input_tokens for reply in counted)),
        round(each * sum(reply.output_tokens for reply in counted)),
    )


def guess_tokens(ask: Ask) -> int:
    """Tokens of a question, about: no two models count alike."""
    letters = len(ask.system) + sum(len(part) for part in ask.parts if isinstance(part, str))
    pixels = sum(part.pixels for part in ask.parts if isinstance(part, QuestionPicture))
    return round(letters / LETTERS_A_TOKEN + pixels / PIXELS_A_TOKEN)


def _known(
    ask: Ask,
    key: str,
    cache: ReplyCache,
    limits: AskLimits,
    parse: Callable[[Ask, str], T | None],
) -> AskResult[T] | None:
    """The answer that kept replies give; None if there are attempts left to get one."""
    replies = cache.replies(key)
    for number in range(len(replies)):
        answer = _answer_by(ask, replies[: number + 1], parse)
        if answer.status == "ok":
            return answer
    return answer if len(replies) >= limits.max_attempts else None


def _answer_by(
    ask: Ask, replies: tuple[Reply, ...], parse: Callable[[Ask, str], T | None], paid: int = 0
) -> AskResult[T]:
    """The answer if the last reply is to decide."""
    last = replies[-1]
    if last.refused:
        return AskResult(ask, "refused", None, _first_line(last.text), replies, paid)
    value = parse(ask, last.text)
    if value is None:
        return AskResult(ask, "unparsable", None, _first_line(last.text), replies, paid)
    return AskResult(ask, "ok", value, "", replies, paid)


def _attempt_all(
    ask: Ask,
    respondent: Respondent,
    cache: ReplyCache,
    limits: AskLimits,
    parse: Callable[[Ask, str], T | None],
    pace: Pace,
    stopping: Stopping,
) -> AskResult[T]:
    """Ask until a reply counts or the attempts are used up; kept replies were attempts, too."""
    key = cache_key(ask, respondent.parameters)
    kept = replies = cache.replies(key)
    failures = 0
    for number in range(len(kept), limits.max_attempts):
        pace.wait(stopping)
        try:
            reply = respondent.answer(ask, number)
        except NoReply as e:
            paid = len(replies) - len(kept)
            answer: AskResult[T] = AskResult(ask, "failed", None, str(e), replies, paid)
            if not e.again:
                break
            if e.wait is not None:
                pace.hold(e.wait, str(e))
            if number + 1 < limits.max_attempts:
                stopping.sleep(backoff(failures, limits.first_wait, limits.longest_wait))
            failures += 1
            continue
        reply = cache.append(key, ask.id, respondent.parameters["model"], reply)
        replies = (*replies, reply)
        answer = _answer_by(ask, replies, parse, len(replies) - len(kept))
        if answer.status == "ok":
            break
    return answer


def _first_line(text: str) -> str:
    return " ".join(text.split())[:SHOWN] or "an empty reply"
