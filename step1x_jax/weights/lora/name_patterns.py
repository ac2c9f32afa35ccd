"""Patterns of layers' names as PEFT's settings have them, without running a stranger's expression.

PEFT takes them for regular expressions, which may take for ever. Here a pattern may have plain
names, ^ and $, dots, \\d, \\w, classes, alternatives in brackets, and *, + or ? after one
character, which is what people write; the time is linear in pattern and name. As in PEFT a pattern
means every name that ends in it, from its beginning or after a dot.
"""

import itertools
import re
import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from step1x_jax.errors import UserError
from step1x_jax.json_files import shown

MAX_SEQUENCES = 200  # of patterns that are no plain names; their time is that of all together
MAX_LENGTH = 1000  # characters of a pattern
_PLAIN = re.compile(r"\^?[\w-]+(?:\.[\w-]+)*\$?")  # of our own, on texts of bounded length
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_DIGITS = frozenset(string.digits)


class _Token(NamedTuple):
    """One character of a name, or several."""

    chars: frozenset[str] | None  # None: any
    negated: bool = False
    optional: bool = False
    repeated: bool = False

    def takes(self, char: str) -> bool:
        return self.chars is None or (char in self.chars) != self.negated


_Sequence = tuple[_Token, ...]


class _NotReadError(ValueError):
    """What is outside of what is read here."""


class NamePatterns:
    """Numbers by patterns of names; the first pattern that matches a name gives its number."""

    def __init__(self, patterns: Mapping[str, float], source: str):
        """Reads the patterns.

        Args:
          patterns: pattern -> number.
          source: where they are from, for messages.

        Raises:
          UserError: a pattern has more in it than is read here, or there are too many.
        """
        self._values = list(patterns.values())
        self._plain: dict[tuple[bool, str], int] = {}  # (from its beginning, name) -> which
        self._others: list[tuple[int, bool, _Sequence]] = []
        for i, pattern in enumerate(patterns):
            if len(pattern) > MAX_LENGTH:
                raise UserError(f"{source}: the pattern {shown(pattern)} is too long; shorten it.")
            unescaped = pattern.replace("\\.", ".")
            if _PLAIN.fullmatch(unescaped):
                whole, name = unescaped.startswith("^"), unescaped.strip("^$")
                self._plain.setdefault((whole, name), i)
                continue
            try:
                self._others += [(i, *part) for part in _alternatives(pattern)]
            except _NotReadError as e:
                raise UserError(
                    f"{source}: the pattern {shown(pattern)} {e}; write it as names of layers."
                ) from e
            if len(self._others) > MAX_SEQUENCES:
                raise UserError(
                    f"{source}: there are more than {MAX_SEQUENCES} patterns that are no plain"
                    " names; write them as names of layers."
                )

    def get(self, name: str) -> float | None:
        """The number of a layer, None if no pattern matches its name."""
        found = [self._plain[key] for key in ((True, name), (False, name)) if key in self._plain]
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            if (False, rest) in self._plain:
                found.append(self._plain[False, rest])
        first = min(found, default=len(self._values))
        for i, whole, sequence in self._others:
            if i < first and _matches(sequence, name, whole):
                first = i
        return self._values[first] if first < len(self._values) else None


def _matches(sequence: _Sequence, name: str, whole: bool) -> bool:
    """Whether a name, or what follows one of its dots, is what the tokens say.

    Bit i of `states` says that the first i tokens are done; all go on together.
    """
    length = len(sequence)
    optional = sum(token.optional << i for i, token in enumerate(sequence))
    repeated = sum(token.repeated << i for i, token in enumerate(sequence))
    takes = {
        char: sum(token.takes(char) << i for i, token in enumerate(sequence)) for char in set(name)
    }

    def skipping(states: int) -> int:
        while (more := states | (states & optional) << 1) != states:
            states = more
        return states

    states = skipping(1)
    for char in name:
        done = states & takes[char]
        states = (done << 1) | (done & repeated)
        if char == "." and not whole:
            states |= 1
        states = skipping(states)
    return bool(states >> length & 1)


def _alternatives(pattern: str) -> Iterator[tuple[bool, _Sequence]]:
    """The sequences that a pattern stands for, each with whether it begins where the name does."""
    parts, rest = _parsed(pattern, 0)
    if rest != len(pattern):
        raise _NotReadError("has a bracket that is not opened")
    for tokens in parts:
        whole = tokens[:1] == (_START,)
        tokens = tokens[whole:]
        if tokens[-1:] == (_END,):
            tokens = tokens[:-1]
        if _START in tokens or _END in tokens:
            raise _NotReadError("has ^ or $ within it")
        yield whole, tokens


_START, _END = _Token(frozenset({"at the start"})), _Token(frozenset({"at the end"}))


def _parsed(pattern: str, at: int) -> tuple[list[_Sequence], int]:
    """The alternatives from a place on, up to a closing bracket or the end, and where that is."""
    done: list[_Sequence] = []
    current: list[_Sequence] = [()]
    while at < len(pattern) and pattern[at] != ")":
        char = pattern[at]
        if char == "|":
            done, current, at = done + current, [()], at + 1
            continue
        if char == "(":
            at += 3 if pattern.startswith("(?:", at) else 1
            if pattern[at : at + 1] == "?":
                raise _NotReadError("has an extension (?...)")
            inner, at = _parsed(pattern, at)
            if at == len(pattern):
                raise _NotReadError("has a bracket that is not closed")
            at += 1
            if pattern[at : at + 1] in ("*", "+", "?", "{") and at < len(pattern):
                raise _NotReadError("repeats a bracket")
        else:
            token, at = _token(pattern, at)
            inner, at = _repeated(token, pattern, at)
        if len(done) + len(current) * len(inner) > MAX_SEQUENCES:
            raise _NotReadError("has too many alternatives")
        current = [one + other for one, other in itertools.product(current, inner)]
    return done + current, at


def _token(pattern: str, at: int) -> tuple[_Token, int]:
    """The token at a place, without what repeats it, and the place after it."""
    char = pattern[at]
    if char == "^":
        return _START, at + 1
    if char == "$":
        return _END, at + 1
    if char == ".":
        return _Token(None), at + 1
    if char == "[":
        return _class(pattern, at)
    if char == "\\":
        escaped = pattern[at + 1 : at + 2]
        if escaped == "d":
            return _Token(_DIGITS), at + 2
        if escaped == "w":
            return _Token(_WORD), at + 2
        if not escaped or escaped.isalnum():
            raise _NotReadError(f"has \\{escaped}")
        return _Token(frozenset(escaped)), at + 2
    if char in "*+?{":
        raise _NotReadError(f"has {char} where nothing is to be repeated")
    return _Token(frozenset(char)), at + 1


def _class(pattern: str, at: int) -> tuple[_Token, int]:
    end = pattern.find("]", at + 2)
    inside = pattern[at + 1 : end]
    negated = inside.startswith("^")
    inside = inside.removeprefix("^")
    if end < 0 or not inside or "\\" in inside or "[" in inside:
        raise _NotReadError("has an unusual class [...]")
    chars: set[str] = set()
    i = 0
    while i < len(inside):
        if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
            first, last = ord(inside[i]), ord(inside[i + 2])
            if not first <= last < 128:
                raise _NotReadError("has an unusual class [...]")
            chars |= set(map(chr, range(first, last + 1)))
            i += 3
        else:
            chars.add(inside[i])
            i += 1
    return _Token(frozenset(chars), negated), end + 1


def _repeated(token: _Token, pattern: str, at: int) -> tuple[list[_Sequence], int]:
    """A token as often as *, + or ? say."""
    sign = pattern[at : at + 1]
    if sign == "{":
        raise _NotReadError("has {...}")
    if not sign or sign not in "*+?":
        return [(token,)], at
    if token in (_START, _END):
        raise _NotReadError("repeats ^ or $")
    at += 1
    if pattern[at : at + 1] == "?":  # the shortest match is a match, too
        at += 1
    elif pattern[at : at + 1] in ("*", "+") and at < len(pattern):
        raise _NotReadError("repeats a repetition")
    many = token._replace(optional=True, repeated=True)
    if sign == "?":
        return [(token._replace(optional=True),)], at
    return [(many,) if sign == "*" else (token, many)], at
