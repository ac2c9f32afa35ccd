"""The stage that has a language model write instructions: rounds, then both languages."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from step1x_jax.asking.ask import Answer, Limits, ask_all
from step1x_jax.asking.cache import ReplyCache, open_cache
from step1x_jax.asking.chat import ChatClient
from step1x_jax.asking.exchange import Ask, Picture
from step1x_jax.asking.pictures import picture_size, picture_to_send, shrunk_size
from step1x_jax.asking.preset import LOCAL, ChatPreset
from step1x_jax.asking.replies import strip_reasoning
from step1x_jax.curation.captions.examples import bank_digest, draw_examples
from step1x_jax.curation.captions.prompts import (
    ROUND_SCHEMA,
    WRITE_SCHEMA,
    prompts_digest,
    read_prompt,
    round_text,
    write_text,
)
from step1x_jax.curation.captions.rounds import Annotation, RoundReply
from step1x_jax.curation.engine.rows import (
    ID,
    Context,
    Failed,
    Outcome,
    Rejected,
    Row,
    StopError,
)
from step1x_jax.curation.engine.stage import Operator, Stage
from step1x_jax.curation.filters.language import check_languages
from step1x_jax.errors import UserError, require
from step1x_jax.json_files import build, parse_json

MOST_ATTEMPTS = 4  # of a question
ORPHANS = 60.0  # seconds for which what a killed run left may still hold the replies of a part
LONGEST = 600  # characters of an instruction
REASONS = {"unparsable": "malformed", "refused": "refused"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Written:
    """The instruction in both languages."""

    en: str
    cn: str


@dataclasses.dataclass
class Caption(Stage):
    """Instructions by a model behind any OpenAI-compatible address (vLLM, ...).

    A reply that is not in the form that was asked for is asked for again, at most MOST_ATTEMPTS
    times in all; then the row is rejected. Every reply is kept, and nothing is asked twice.

    Attributes:
      endpoint: the address, up to and with /v1.
      model: its id there.
      revision: of the model, for the record: another one writes anew.
      rounds: of annotation.
      needed: rounds that must hold a claim.
      examples: of the bank, in each language.
      temperature: of the model; the seed of an attempt differs from the one before.
      max_tokens: of a reply.
      timeout: seconds for a reply.
      concurrency: questions at a time, of one worker.
      key_variable: environment variable with the address's key; "": none is sent.
      first_wait: seconds before the second attempt, about; doubled before each further one.
    """

    endpoint: str = LOCAL
    model: str = ""
    revision: str = ""
    rounds: int = 3
    needed: int = 2
    examples: int = 3
    temperature: float = 0.2
    max_tokens: int = 1024
    timeout: float = 120.0
    concurrency: int = 16
    key_variable: str = ""
    first_wait: float = 1.0

    reads: ClassVar = {"category": str, "source": bytes, "target": bytes}
    writes: ClassVar = {
        "instruction_en": str,
        "instruction_cn": str,
        "instruction_by": str,
        "caption_rounds": list[str],  # each round's reply, as JSON
        "caption_claims": list[str],  # those that were kept
        "caption_examples": list[str],  # those that the model was shown
    }
    batch: ClassVar = 0
    aside: ClassVar = ("endpoint", "timeout", "concurrency", "key_variable", "first_wait")

    def validate(self) -> None:
        """See `Stage`."""
        address = self.endpoint.startswith(("http://", "https://"))
        require(address, "endpoint", self.endpoint, "give an address such as http://HOST:8000/v1")
        require(bool(self.model), "model", self.model, "give the model's id at the endpoint")
        require(1 <= self.rounds <= 10, "rounds", self.rounds, "give 1 to 10")
        require(1 <= self.needed <= self.rounds, "needed", self.needed, "give 1 to rounds")
        require(0 <= self.examples <= 6, "examples", self.examples, "the bank has 6 of each")
        require(self.timeout > 0, "timeout", self.timeout, "give seconds")
        require(1 <= self.concurrency <= 1000, "concurrency", self.concurrency, "give 1 to 1000")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        return {"prompts": prompts_digest(), "bank": bank_digest()}

    def open(self) -> Operator:
        """See `Stage`."""
        preset = ChatPreset(
            endpoint=self.endpoint.rstrip("/"),
            model=self.model,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=0,
            structured=True,
        )
        client = ChatClient(preset, self.timeout, self.key_variable)
        limits = Limits(MOST_ATTEMPTS, self.concurrency, first_wait=self.first_wait)

        def operate(rows: Sequence[Row], context: Context) -> list[Outcome]:
            try:
                with _replies(context.folder) as cache:
                    return _Captions(self, client, limits, cache, context).write(rows)
            except UserError as e:
                raise StopError(str(e)) from e

        return operate


@contextlib.contextmanager
def _replies(folder: str) -> Iterator[ReplyCache]:
    """The replies of a part; waits for those whose driver was killed.

    Raises:
      UserError: somebody keeps them, or they cannot be read.
    """
    until = time.monotonic() + ORPHANS
    with contextlib.ExitStack() as end:
        while True:
            try:
                cache = end.enter_context(open_cache(folder, "give another --workdir"))
                break
            except UserError as e:
                if "another process" not in str(e) or time.monotonic() > until:
                    raise
                time.sleep(0.5)
        yield cache


@dataclasses.dataclass
class _State:
    """A row on its way."""

    row: Row
    pictures: tuple[Picture, ...]
    annotation: Annotation = dataclasses.field(default_factory=Annotation)
    rounds: list[str] = dataclasses.field(default_factory=list)
    outcome: Outcome | None = None  # when it is known

    def reject(
        self, reason: str, detail: str = "", columns: Mapping[str, Any] | None = None
    ) -> None:
        """Ends the row's way, with what was said until then."""
        columns = {"caption_rounds": self.rounds, **(columns or {})}
        self.outcome = Rejected(f"caption_{reason}", detail, columns)


class _Captions:
    """Asks about the rows of a part, all of them at a time, round by round."""

    def __init__(
        self,
        stage: Caption,
        client: ChatClient,
        limits: Limits,
        cache: ReplyCache,
        context: Context,
    ):
        self._stage = stage
        self._client = client
        self._limits = limits
        self._cache = cache
        self._context = context

    def write(self, rows: Sequence[Row]) -> list[Outcome]:
        """An outcome of each row."""
        states = {row[ID]: _begin(row, self._client.preset) for row in rows}
        for number in range(1, self._stage.rounds + 1):
            self._annotate(states, number)
        self._instruct(states)
        outcomes = [states[row[ID]].outcome for row in rows]
        assert None not in outcomes  # `_instruct` leaves none
        return outcomes  # type: ignore[return-value]

    def _annotate(self, states: Mapping[str, _State], number: int) -> None:
        """A round."""

        def ask(state: _State) -> Ask:
            text = round_text(state.row["category"], state.annotation.latest)
            return self._question(state, f"round {number}", text, ROUND_SCHEMA, number)

        def parse(ask: Ask, text: str) -> RoundReply | None:
            reply = _parse(RoundReply, text)
            given = len(states[ask.subject].annotation.latest)
            return reply if reply is not None and reply.problem(given) is None else None

        for state, reply in self._ask_all(states, ask, parse):
            state.annotation.add(reply)
            state.rounds.append(json.dumps(dataclasses.asdict(reply), ensure_ascii=False))

    def _instruct(self, states: Mapping[str, _State]) -> None:
        """The instructions, of what the rounds agree on."""
        shown: dict[str, Mapping[str, Sequence[str]]] = {}
        claims: dict[str, list[str]] = {}
        for id, state in states.items():
            claims[id] = [claim.text for claim in state.annotation.kept(self._stage.needed)]
            if state.outcome is None and not claims[id]:
                state.reject("unconfirmed")
            rng = self._context.rng(state.row)
            shown[id] = draw_examples(state.row["category"], self._stage.examples, rng)

        def ask(state: _State) -> Ask:
            id = state.row[ID]
            text = write_text(state.row["category"], claims[id], shown[id])
            return self._question(state, "instruction", text, WRITE_SCHEMA, 0)

        def parse(ask: Ask, text: str) -> _Written | None:
            written = _parse(_Written, text)
            fine = written is not None and max(len(written.en), len(written.cn)) <= LONGEST
            return written if fine else None

        for state, written in self._ask_all(states, ask, parse):
            id = state.row[ID]
            columns = {
                "instruction_en": " ".join(written.en.split()),
                "instruction_cn": " ".join(written.cn.split()),
                "instruction_by": self._stage.model,
                "caption_rounds": state.rounds,
                "caption_claims": claims[id],
                "caption_examples": [text for texts in shown[id].values() for text in texts],
            }
            problem = check_languages(columns)
            if problem is None:
                state.outcome = columns
            else:
                state.reject(problem, columns=columns)

    def _question(
        self, state: _State, what: str, text: str, schema: Mapping[str, Any], repeat: int
    ) -> Ask:
        """A question; rounds that ask the same are repeats of it, each with its own reply."""
        id = state.row[ID]
        parts: tuple[str | Picture, ...] = (*state.pictures, text)
        return Ask(f"{id} {what}", parts, read_prompt("system"), schema, repeat, subject=id)

    def _ask_all(
        self,
        states: Mapping[str, _State],
        ask: Callable[[_State], Ask],
        parse: Callable[[Ask, str], T | None],
    ) -> Iterator[tuple[_State, T]]:
        """Asks about all rows that are on their way; those without an answer leave it."""
        going = [state for state in states.values() if state.outcome is None]
        answers: Iterator[Answer[T]] = ask_all(
            map(ask, going), self._client, self._cache, self._limits, parse
        )
        for answer in answers:
            state = states[answer.ask.subject]
            self._context.calls["requests"] += answer.paid
            if answer.value is not None:
                yield state, answer.value
            elif answer.status == "failed":
                state.outcome = Failed("NoReply", answer.reason)
            else:
                state.reject(REASONS[answer.status], answer.reason)


def _begin(row: Row, preset: ChatPreset) -> _State:
    """The row with its pictures as they are sent."""
    pictures = []
    try:
        for name in ("source", "target"):
            size = picture_size(row[name], name)
            pictures.append(picture_to_send(row[name], name, shrunk_size(size), preset))
    except UserError as e:
        return _State(row, (), outcome=Rejected("unreadable_picture", str(e)))
    return _State(row, tuple(pictures))


def _parse(kind: type[T], text: str) -> T | None:
    """The JSON object of a reply, or None if it is not in its form."""
    try:
        return build(kind, parse_json(_unfenced(strip_reasoning(text)), "it"), "it")
    except UserError:
        return None


def _unfenced(text: str) -> str:
    """Without the three backticks that models put around JSON."""
    if text.startswith("```") and text.endswith("```"):
        return text.partition("\n")[2].removesuffix("```")
    return text
