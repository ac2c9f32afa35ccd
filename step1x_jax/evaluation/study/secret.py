"""Names and orders that tell nothing to whoever does not hold the study's secret."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")

SECRET_BYTES, TOKEN_CHARS = 32, 24


class Secret:
    """A keyed pseudorandom function (HMAC-SHA256) of what is to be named or ordered.

    A generator of random numbers would not do: enough of the names that it draws give away the
    order that it draws next. With the secret all is made again, without it nothing is.
    """

    def __init__(self, seed: bytes | None = None):
        """Take a seed of SECRET_BYTES bytes, or draw one from the system."""
        self.seed = secrets.token_bytes(SECRET_BYTES) if seed is None else seed

    def name(self, *about: str) -> str:
        """Return TOKEN_CHARS hexadecimal digits for a thing that is described by words."""
        return self._digest(about).hex()[:TOKEN_CHARS]

    def fraction(self, *about: str) -> float:
        """Return a number in [0, 1), evenly distributed."""
        return int.from_bytes(self._digest(about)[:6]) / 2.0**48

    def shuffled(self, items: Iterable[Item], *about: str) -> list[Item]:
        """The items in a random order; each item's words are its repr, and must differ."""
        return sorted(items, key=lambda item: self._digest((*about, repr(item))))

    def _digest(self, about: tuple[str, ...]) -> bytes:
        return hmac.digest(self.seed, json.dumps(about).encode(), hashlib.sha256)
