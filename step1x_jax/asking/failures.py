"""What a server's error means for a run: ask again, leave this question, or stop.

Codes and forms are those of OpenAI, Azure, OpenRouter, Gemini's OpenAI-compatible address and vLLM.
"""

import dataclasses
import datetime
import email.utils
import math
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from step1x_jax.asking.exchange import NoReply
from step1x_jax.errors import UserError

LONGEST = 300  # characters of a server's words
_FILTERED = (
    "content_filter",
    "content_policy_violation",
    "responsibleaipolicyviolation",
    "invalid_prompt",
)
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_NO_MODEL = ("model_not_found", "deploymentnotfound")
_ANOTHER_TIME = (408, 409, 425, 429)


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error as a server describes it.

    Attributes:
      status: of HTTP.
      codes: its code and the more exact ones within, in small letters.
      parameter: the part of the request that it is about; "" if it does not say.
      message: its words, on one line.
      filtered: whether a content filter has spoken.
    """

    status: int
    codes: tuple[str, ...]
    parameter: str
    message: str
    filtered: bool


def read_failure(status: int, body: bytes) -> Failure:
    """An error from the body of a response, whatever that is."""
    try:
        values = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        values = {}
    if isinstance(values, list) and values:  # as Gemini has it
        values = values[0]
    error = values.get("error", values) if isinstance(values, dict) else {}
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        error = {}
    inner = _dict(error, "innererror")
    codes = tuple(
        str(code).lower() for code in (error.get("code"), error.get("type"), inner.get("code"))
    )
    message = error.get("message")
    text = message if isinstance(message, str) else ""
    moderated = "flagged_input" in _dict(error, "metadata")  # as OpenRouter has it
    return Failure(
        status,
        codes,
        str(error.get("param") or ""),
        " ".join(text.split())[:LONGEST] or "no explanation",
        400 <= status < 500 and (moderated or not set(codes).isdisjoint(_FILTERED)),
    )


def _dict(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def no_reply(
    failure: Failure, headers: Mapping[str, str], endpoint: str, sent: Collection[str]
) -> NoReply:
    """What an error that concerns one question, or the moment, is raised as.

    Args:
      failure: the error.
      headers: of the response; Retry-After is obeyed.
      endpoint: for messages.
      sent: names of the parameters that every request has.

    Raises:
      UserError: no other question would fare better.
    """
    status = failure.status
    why = f"{endpoint} answers with status {status}: {failure.message}"
    if status == 402 or not set(failure.codes).isdisjoint(_NO_MONEY):
        raise UserError(f"{why}; pay for more, then run this again: the replies so far are kept.")
    if status in (401, 403):
        raise UserError(f"{why}; check the key, which the setting key_variable names.")
    if status == 404 or not set(failure.codes).isdisjoint(_NO_MODEL):
        raise UserError(f"{why}; check the settings endpoint and model.")
    if 300 <= status < 400:
        raise UserError(f"{why}; it leads to {headers.get('location', 'nowhere')!r:.200}.")
    if status < 500 and failure.parameter in sent:
        raise UserError(
            f"{why}; all requests have {failure.parameter}, which this model does not take so:"
            " choose another model, or a preset that is made for it."
        )
    again = status >= 500 or status in _ANOTHER_TIME
    return NoReply(
        f"status {status}: {failure.message}",
        again=again,
        wait=read_retry_after(headers.get("retry-after")) if again else None,
    )


def read_retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date.

    Returns:
      None: there is none, or it is none.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        if date.tzinfo is None:  # as -0000, "it is UTC", is read
            date = date.replace(tzinfo=datetime.UTC)
        seconds = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
    return None if math.isnan(seconds) else max(seconds, 0.0)
