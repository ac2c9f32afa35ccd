"""What a model is asked, what comes back, and who can be asked."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class QuestionPicture:
    """A picture in a question.

    Attributes:
      fingerprint: of the file's bytes, and of all that is done to it before it is sent.
      encode: makes the PNG or JPEG file that is sent; called when the question is really asked.
      pixels: of what is sent, for estimates of its price.
    """

    fingerprint: str
    encode: Callable[[], bytes]
    pixels: int = 0


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
      id: what it is about, for people who read the cache; unique in a run but for repeats.
      parts: texts and pictures in the order in which they are sent.
      system: what stands before all, as the system's message; "" for none.
      schema: JSON schema of the answer, for those that are given one.
      repeat: 0 and up: the same question asked again, to measure the model's own noise.
      subject: whatever the caller knows it by; it is not sent, and no reply depends on it.
    """

    id: str
    parts: tuple[str | QuestionPicture, ...]
    system: str = ""
    schema: Mapping[str, Any] | None = None
    repeat: int = 0
    subject: Any = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """One reply, as it is kept.

    Attributes:
      text: all that the model said.
      finish_reason: why it ended, in the server's word; "" if that says nothing.
      refused: whether a content filter held back question or reply.
      model: the name that the server gives its model.
      provider: who serves it, where that is said.
      host: of the endpoint.
      input_tokens: of the question, as counted by the server; 0 where it does not.
      output_tokens: of the reply, reasoning included.
      seconds: that it took.
      time: when it was kept, UTC.
    """

    text: str
    finish_reason: str = ""
    refused: bool = False
    model: str = ""
    provider: str = ""
    host: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    time: str = ""


class NoReply(Exception):
    """There was no reply; its message says why, in a few words.

    Attributes:
      again: whether another attempt may do better.
      wait: seconds that the server wants everybody to wait before; None: it does not say.
    """

    def __init__(self, reason: str, *, again: bool, wait: float | None = None):
        super().__init__(reason)
        self.again = again
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Served:
    """What is known of who serves a model; "" where nobody says.

    Attributes:
      provider: who.
      quantisation: of its weights.
      shutdown_date: after which it will be served no more.
    """

    provider: str = ""
    quantisation: str = ""
    shutdown_date: str = ""


class Respondent(Protocol):
    """Who answers one question, once: a model on a server, in this process, or a function."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The model's id as "model", and all else that a reply depends on, as JSON values."""

    def answer(self, ask: Ask, attempt: int) -> Reply:
        """Ask once.

        Args:
          ask: the question.
          attempt: 0 and up.

        Raises:
          NoReply: there was none.
          UserError: no further question would get one: wrong key, unknown model, no money.
        """

    def describe(self) -> Served:
        """What is known of who serves the model; to be called before the first question.

        Raises:
          UserError: there is no key where one is needed, or the server refuses it.
        """
