"""How a model behind an OpenAI-compatible address is asked: what differs between servers."""

import dataclasses
from typing import Literal

OPENAI = "https://api.openai.com/v1"
LOCAL = "http://localhost:8000/v1"  # where vLLM serves if nothing else is said


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatPreset:
    """A model at an address, and the form of requests to it.

    Attributes:
      endpoint: the address that /chat/completions is appended to.
      model: the id that a request carries.
      token_limit: the name of the parameter that bounds a reply.
      max_tokens: its value.
      temperature: 0 is greedy; None: not sent, the server's default.
      seed: of the first attempt, and one more for each further; None: not sent.
      picture_format: in which pictures are sent.
      jpeg_quality: of Pillow, whose default is 75.
      structured: whether the form of the answer is sent along as a JSON schema, as the server's
        response_format.
    """

    endpoint: str
    model: str
    max_tokens: int
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = None
    seed: int | None = None
    picture_format: Literal["PNG", "JPEG"] = "PNG"
    jpeg_quality: int = 75
    structured: bool = False
