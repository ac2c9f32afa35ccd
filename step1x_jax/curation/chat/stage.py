"""What stages that ask a language model have in common: its settings, and how rows are asked about.

A reply that is not in the form that was asked for is asked for again, at most MOST_ATTEMPTS times
in all; then the row is rejected. Every reply is kept, and nothing is asked twice.
"""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from etils import epath

from step1x_jax.asking.ask import AskLimits, ask_all
from step1x_jax.asking.cache import ReplyCache, open_cache
from step1x_jax.asking.chat import ChatClient
from step1x_jax.asking.exchange import Ask, QuestionPicture
from step1x_jax.asking.pictures import picture_size, picture_to_send, shrunk_size
from step1x_jax.asking.preset import LOCAL, ChatPreset
from step1x_jax.curation.chat.prompts import read_prompt
from step1x_jax.curation.engine.rows import (
    ID,
    Context,
    Failed,
    Rejected,
    Row,
    StopError,
)
from step1x_jax.curation.engine.stage import Operator, Stage
from step1x_jax.errors import UserError, require

MOST_ATTEMPTS = 4  # of a question
ORPHANS = 60.0  # seconds for which what a killed run left may still hold the replies of a part
REASONS = {"unparsable": "malformed", "refused": "refused"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RowQuestion:
    """What is asked about a row, behind its pictures.

    Attributes:
      name: for people who read the replies.
      text: in words.
      schema: JSON schema of the answer.
      repeat: see `Ask`.
    """

    name: str
    text: str
    schema: Mapping[str, Any]
    repeat: int = 0


@dataclasses.dataclass
class Asked:
    """A row on its way through a stage's questions.

    Attributes:
      row: itself.
      word: with which the stage's reasons begin.
      pictures: as they are sent.
      columns: what is known so far, and kept if the row is rejected.
      outcome: of the row, when it is known; of a stage with `many`, a list.
    """

    row: Row
    word: str
    pictures: tuple[QuestionPicture, ...] = ()
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    outcome: Any = None

    def reject(self, reason: str, detail: str = "") -> None:
        """End the row's way."""
        self.outcome = Rejected(f"{self.word}_{reason}", detail, dict(self.columns))


class Conversation:
    """Asks about the rows of a part, all of them at a time, one kind of question after another."""

    def __init__(
        self,
        rows: Mapping[str, Asked],
        client: ChatClient,
        limits: AskLimits,
        cache: ReplyCache,
        context: Context,
        system: str,
    ):
        """Ask nothing yet.

        Args:
          rows: by id.
          client: the model.
          limits: how often and how fast.
          cache: open.
          context: of the stage; requests are counted there.
          system: the system's message.
        """
        self._rows = rows
        self._client = client
        self._limits = limits
        self._cache = cache
        self._system = system
        self.context = context

    @property
    def going(self) -> list[Asked]:
        """Rows that have no outcome yet."""
        return [one for one in self._rows.values() if one.outcome is None]

    def ask(
        self,
        question: Callable[[Asked], RowQuestion],
        parse: Callable[[Asked, str], T | None],
    ) -> Iterator[tuple[Asked, T]]:
        """Ask about all rows that are `going`; those without an answer get their outcome.

        Args:
          question: about a row.
          parse: what a reply about it says, or None if it is not in its form; raises nothing.

        Yields:
          A row and its answer, as they come.

        Raises:
          UserError: see `ask_all`.
        """

        def read(ask: Ask, text: str) -> T | None:
            return parse(self._rows[ask.subject], text)

        asks = (self._ask(one, question(one)) for one in self.going)
        for answer in ask_all(asks, self._client, self._cache, self._limits, read):
            one = self._rows[answer.ask.subject]
            self.context.calls["requests"] += answer.paid
            if answer.value is not None:
                yield one, answer.value
            elif answer.status == "failed":
                one.outcome = Failed("NoReply", answer.reason)
            else:
                one.reject(REASONS[answer.status], answer.reason)

    def _ask(self, one: Asked, question: RowQuestion) -> Ask:
        id = one.row[ID]
        return Ask(
            f"{id} {question.name}",
            (*one.pictures, question.text),
            self._system,
            question.schema,
            question.repeat,
            subject=id,
        )


@dataclasses.dataclass
class ChatStage(Stage):
    """A stage that asks a model behind any OpenAI-compatible address (vLLM, ...).

    Attributes:
      endpoint: the address, up to and with /v1.
      model: its id there.
      revision: of the model, for the record: another one is asked anew.
      temperature: of the model; the seed of an attempt differs from the one before.
      max_tokens: of a reply.
      timeout: seconds for a reply.
      concurrency: questions at a time, of one worker.
      key_variable: environment variable with the address's key; "": none is sent.
      first_wait: seconds before the second attempt, about; doubled before each further one.
      pictures: columns of the pictures that the model is shown, in their order.
      system: name of the prompt that is the system's message.
      word: with which reasons of rejections begin.
    """

    endpoint: str = LOCAL
    model: str = ""
    revision: str = ""
    temperature: float = 0.2
    max_tokens: int = 1024
    timeout: float = 120.0
    concurrency: int = 16
    key_variable: str = ""
    first_wait: float = 1.0

    batch: ClassVar = 0
    aside: ClassVar = ("endpoint", "timeout", "concurrency", "key_variable", "first_wait")
    pictures: ClassVar[Sequence[str]] = ()
    system: ClassVar[str] = ""
    word: ClassVar[str] = ""

    def validate(self) -> None:
        """See `Stage`."""
        address = self.endpoint.startswith(("http://", "https://"))
        require(address, "endpoint", self.endpoint, "give an address such as http://HOST:8000/v1")
        require(bool(self.model), "model", self.model, "give the model's id at the endpoint")
        require(self.timeout > 0, "timeout", self.timeout, "give seconds")
        require(1 <= self.concurrency <= 1000, "concurrency", self.concurrency, "give 1 to 1000")

    def ask(self, conversation: Conversation) -> None:
        """Ask about the rows of a part, until each has an outcome."""
        raise NotImplementedError

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
        limits = AskLimits(MOST_ATTEMPTS, self.concurrency, first_wait=self.first_wait)

        def operate(rows: Sequence[Row], context: Context) -> list[Any]:
            asked = {row[ID]: self._begin(row, preset) for row in rows}
            try:
                with _open_replies(context.folder, self.revision) as cache:
                    system = read_prompt(self.system)
                    self.ask(Conversation(asked, client, limits, cache, context, system))
            except UserError as e:
                raise StopError(str(e)) from e
            return [asked[row[ID]].outcome for row in rows]

        return operate

    def _begin(self, row: Row, preset: ChatPreset) -> Asked:
        """The row with its pictures as they are sent."""
        pictures = []
        try:
            for name in self.pictures:
                size = shrunk_size(picture_size(row[name], name))
                pictures.append(picture_to_send(row[name], name, size, preset))
        except UserError as e:
            return Asked(row, self.word, outcome=Rejected("unreadable_picture", str(e)))
        return Asked(row, self.word, tuple(pictures))


@contextlib.contextmanager
def _open_replies(folder: str, revision: str) -> Iterator[ReplyCache]:
    """The replies of a part, by one revision; waits for those whose driver was killed.

    Raises:
      UserError: somebody keeps them, or they cannot be read.
    """
    place = epath.Path(folder)
    if revision:
        place /= hashlib.sha256(revision.encode()).hexdigest()[:12]
    until = time.monotonic() + ORPHANS
    with contextlib.ExitStack() as end:
        while True:
            try:
                cache = end.enter_context(open_cache(place, "give another --workdir"))
                break
            except UserError as e:
                if "another process" not in str(e) or time.monotonic() > until:
                    raise
                time.sleep(0.5)
        yield cache
