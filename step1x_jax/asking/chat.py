"""A model behind an OpenAI-compatible address: POST /chat/completions, one request a call.

By httpx2 (requirements.txt; transformers brings it along) and not by the package openai: that one
repeats requests by itself, waits by its own rules, and checks the form of requests that other
servers want otherwise. Here every request is counted, and what is done about a failure depends on
more than its status. All of the API that is used is two addresses and one form of JSON.
"""

import base64
import dataclasses
import datetime
import os
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from step1x_jax.asking.exchange import Ask, NoReply, QuestionPicture, Reply, Served
from step1x_jax.asking.failures import no_reply, read_failure
from step1x_jax.asking.preset import LOCAL, OPENAI, ChatPreset
from step1x_jax.errors import UserError
from step1x_jax.json_files import SHOWN

LARGEST = 1 << 20  # bytes of a server's answer, of which a cache's line can hold every sign
CONNECT = 20.0  # seconds to reach a server
OPENAI_KEY = "OPENAI_API_KEY"
SEEDS_APART = 1000  # of repeats: more than a question has attempts
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg"}
# Reasons to finish by which a filter has spoken, not the model, in small letters.
_FILTERED = ("content_filter", "safety", "prohibited_content", "blocklist", "recitation")


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    provider: Any = None
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str
    owned_by: Any = None
    provider: Any = None
    quantization: Any = None
    shutdown_date: Any = None


class _Models(msgspec.Struct):
    data: list[_Model]


class ChatClient:
    """A model on a server; usable from several threads."""

    def __init__(self, preset: ChatPreset, timeout: float, key_variable: str = ""):
        """Open no connection yet.

        Args:
          preset: address, model, and how it is asked.
          timeout: seconds for a reply as a whole.
          key_variable: the environment variable that holds the key; "": OPENAI_API_KEY for OpenAI's
            own address, none for any other, so that no key goes where it does not belong.

        Raises:
          UserError: what the variable holds is no key, or the address is none.
        """
        self.preset = preset
        self._timeout = timeout
        self._key_variable = key_variable or (OPENAI_KEY if preset.endpoint == OPENAI else "")
        self._key = os.environ.get(self._key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the environment variable {self._key_variable} holds no key; set it.")
        try:
            self.host = httpx2.URL(preset.endpoint).netloc.decode()
            self._client = httpx2.Client(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT)),
                limits=httpx2.Limits(),  # none: so many threads as ask at a time
            )
        except (httpx2.InvalidURL, ValueError) as e:
            raise UserError(
                f"the endpoint {preset.endpoint} is no address ({e}); give one such as {LOCAL}."
            ) from e

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Respondent`."""
        sent = {
            "model": self.preset.model,
            self.preset.token_limit: self.preset.max_tokens,
            "temperature": self.preset.temperature,
            "seed": self.preset.seed,
            "structured": self.preset.structured or None,
        }
        return {name: value for name, value in sent.items() if value is not None}

    def answer(self, ask: Ask, attempt: int) -> Reply:
        """See `Respondent`."""
        begun = time.monotonic()
        request = self._request(ask, attempt)
        status, headers, body = self._send("POST", "/chat/completions", request)
        if status == 200:
            reply = self._read(body)
        else:
            failure = read_failure(status, self._without_key(body))
            if not failure.filtered:
                raise no_reply(failure, headers, self.preset.endpoint, request.keys())
            reply = Reply(failure.message, "content_filter", refused=True, host=self.host)
        return dataclasses.replace(reply, seconds=round(time.monotonic() - begun, 3))

    def describe(self) -> Served:
        """What GET /models says of the model; servers need not say anything.

        Raises:
          UserError: there is no key where one is needed, or the server refuses it.
        """
        if self._key_variable and not self._key:
            raise UserError(
                f"the environment variable {self._key_variable} is not set; put the key in it."
            )
        try:
            status, headers, body = self._send("GET", "/models", None)
        except NoReply:
            return Served()
        if status in (401, 403):
            failure = read_failure(status, self._without_key(body))
            raise no_reply(failure, headers, self.preset.endpoint, ())
        try:
            models = msgspec.json.decode(body, type=_Models).data
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            models = []
        for model in models:
            if model.id == self.preset.model:
                return Served(
                    provider=_short(model.provider or model.owned_by),
                    quantisation=_short(model.quantization),
                    shutdown_date=_as_date(model.shutdown_date),
                )
        return Served()

    def _request(self, ask: Ask, attempt: int) -> dict[str, Any]:
        content = [self._part(part) for part in ask.parts]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if ask.system:
            messages.insert(0, {"role": "system", "content": ask.system})
        request = {name: value for name, value in self.parameters.items() if name != "structured"}
        if self.preset.seed is not None:
            request["seed"] = self.preset.seed + SEEDS_APART * ask.repeat + attempt
        if self.preset.structured and ask.schema is not None:
            form = {"name": "answer", "strict": True, "schema": dict(ask.schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        request["messages"] = messages
        return request

    def _part(self, part: str | QuestionPicture) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        data = base64.b64encode(part.encode()).decode()
        url = f"data:{_MIME[self.preset.picture_format]};base64,{data}"
        return {"type": "image_url", "image_url": {"url": url}}

    def _send(
        self, method: str, path: str, values: dict[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of what the server answers in time.

        Raises:
          NoReply: it does not.
        """
        until = time.monotonic() + self._timeout
        late = f"no reply within {self._timeout:g} s"
        body = bytearray()
        try:
            with self._client.stream(method, self.preset.endpoint + path, json=values) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LARGEST:
                        raise NoReply("an answer without end", again=True)
                    if time.monotonic() > until:  # a byte now and then is in time for httpx
                        raise NoReply(late, again=True)
                return response.status_code, response.headers, bytes(body)
        except httpx2.TimeoutException as e:
            raise NoReply(late, again=True) from e
        except (httpx2.HTTPError, httpx2.StreamError) as e:
            raise NoReply(f"{type(e).__name__} {e}".strip(), again=True) from e

    def _read(self, body: bytes) -> Reply:
        """The reply in a completion.

        Raises:
          NoReply: the body is none.
        """
        try:
            completion = msgspec.json.decode(body, type=_Completion)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
            raise NoReply("an answer that is no completion", again=True) from e
        if not completion.choices:
            raise NoReply("an answer without choices", again=True)
        choice = completion.choices[0]
        usage = completion.usage or _Usage()
        end = choice.finish_reason or ""
        return Reply(
            text=choice.message.content or choice.message.refusal or "",
            finish_reason=_short(end),
            refused=bool(choice.message.refusal) or end.lower() in _FILTERED,
            model=completion.model or "",
            provider=_short(completion.provider),
            host=self.host,
            input_tokens=max(usage.prompt_tokens or 0, 0),
            output_tokens=max(usage.completion_tokens or 0, 0),
        )

    def _without_key(self, body: bytes) -> bytes:
        return body.replace(self._key.encode(), b"...") if self._key else body


def _short(text: Any) -> str:
    return text[:SHOWN] if isinstance(text, str) else ""


def _as_date(value: Any) -> str:
    """A date as YYYY-MM-DD; servers give seconds since 1970, or a text."""
    if isinstance(value, int):
        try:
            return datetime.datetime.fromtimestamp(value, datetime.UTC).date().isoformat()
        except (OverflowError, OSError, ValueError):
            return ""
    return _short(value)
