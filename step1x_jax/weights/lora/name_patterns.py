r"""Matches PEFT's patterns of layer names without running them as regular expressions.

PEFT runs them as regular expressions, which can take exponential time. Here a pattern may consist
of plain names, ^ and $, dots, \d, \w, classes, alternatives in parentheses, and *, + or ? after a
single character, which covers what people write; matching is linear in pattern and name. As in
PEFT, a pattern matches every name that ends in it, from the beginning of the name or after a dot.
"""

import itertools
import re
import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from step1x_jax.errors import UserError
from step1x_jax.json_files import shown

MAX_SEQUENCES = 200  # total over patterns that are not plain names: it bounds the time
MAX_LENGTH = 1000  # characters of a pattern
_PLAIN = re.compile(r"\^?[\w-]+(?:\.[\w-]+)*\$?")  # safe: our own, on strings of bounded length
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_DIGITS = frozenset(string.digits)


class _Token(NamedTuple):
    """One character of a name, or a repetition of it."""

    chars: frozenset[str] | None  # None: any
    negated: bool = False
    optional: bool = False
    repeated: bool = False

    def takes(self, char: str) -> bool:
        return self.chars is None or (char in self.chars) != self.negated


_Sequence = tuple[_Token, ...]


class _UnsupportedError(ValueError):
    """The pattern has a construct that is not supported."""


class NamePatterns:
    """Maps names to numbers; the first pattern that matches a name gives its number."""

    def __init__(self, patterns: Mapping[str, float], source: str):
        """Parse the patterns.

        Args:
          patterns: pattern -> number.
          source: where they come from, for messages.

        Raises:
          UserError: a pattern has an unsupported construct, or there are too many.
        """
        self._values = list(patterns.values())
        self._plain: dict[tuple[bool, str], int] = {}  # (anchored at the start, name) -> index
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
            except _UnsupportedError as e:
                raise UserError(
                    f"{source}: the pattern {shown(pattern)} {e}; write it as names of layers."
                ) from e
            if len(self._others) > MAX_SEQUENCES:
                raise UserError(
                    f"{source}: there are more than {MAX_SEQUENCES} patterns that are not"
                    " plain names; write them as names of layers."
                )

    def get(self, name: str) -> float | None:
        """Return the number of a layer, or None if no pattern matches its name."""
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
    """Return whether the tokens match a name or, unless `whole`, what follows one of its dots.

    Simulates an NFA: bit i of `states` is set if the first i tokens have been matched.
    """
    length = len(sequence)
    optional = sum(token.optional << i for i, token in enumerate(sequence))
    repeated = sum(token.repeated << i for i, token in enumerate(sequence))
    takes = {
        char: sum(token.takes(char) << i for i, token in enumerate(sequence)) for char in set(name)
    }

    def skip_optional(states: int) -> int:
        while (more := states | (states & optional) << 1) != states:
            states = more
        return states

    states = skip_optional(1)
    for char in name:
        done = states & takes[char]
        states = (done << 1) | (done & repeated)
        if char == "." and not whole:
            states |= 1
        states = skip_optional(states)
    return bool(states >> length & 1)


def _alternatives(pattern: str) -> Iterator[tuple[bool, _Sequence]]:
    """Yield a pattern's alternatives: whether it is anchored at the start, and its tokens."""
    parts, rest = _parse(pattern, 0)
    if rest != len(pattern):
        raise _UnsupportedError("has an unmatched )")
    for tokens in parts:
        whole = tokens[:1] == (_START,)
        tokens = tokens[whole:]
        if tokens[-1:] == (_END,):
            tokens = tokens[:-1]
        if _START in tokens or _END in tokens:
            raise _UnsupportedError("has ^ or $ in the middle")
        yield whole, tokens


_START, _END = _Token(frozenset({"at the start"})), _Token(frozenset({"at the end"}))


def _parse(pattern: str, at: int) -> tuple[list[_Sequence], int]:
    """Parse from `at` to an unmatched ) or the end; return alternatives and that position."""
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
                raise _UnsupportedError("has an extension (?...)")
            inner, at = _parse(pattern, at)
            if at == len(pattern):
                raise _UnsupportedError("has an unmatched (")
            at += 1
            if pattern[at : at + 1] in ("*", "+", "?", "{") and at < len(pattern):
                raise _UnsupportedError("repeats parentheses")
        else:
            token, at = _parse_token(pattern, at)
            inner, at = _parse_repetition(token, pattern, at)
        if len(done) + len(current) * len(inner) > MAX_SEQUENCES:
            raise _UnsupportedError("has too many alternatives")
        current = [one + other for one, other in itertools.product(current, inner)]
    return done + current, at


def _parse_token(pattern: str, at: int) -> tuple[_Token, int]:
    """Parse a single token without its repetition; return it and the next position."""
    char = pattern[at]
    if char == "^":
        return _START, at + 1
    if char == "$":
        return _END, at + 1
    if char == ".":
        return _Token(None), at + 1
    if char == "[":
        return _parse_class(pattern, at)
    if char == "\\":
        escaped = pattern[at + 1 : at + 2]
        if escaped == "d":
            return _Token(_DIGITS), at + 2
        if escaped == "w":
            return _Token(_WORD), at + 2
        if not escaped or escaped.isalnum():
            raise _UnsupportedError(f"has \\{escaped}")
        return _Token(frozenset(escaped)), at + 2
    if char in "*+?{":
        raise _UnsupportedError(f"has {char} with nothing to repeat")
    return _Token(frozenset(char)), at + 1


def _parse_class(pattern: str, at: int) -> tuple[_Token, int]:
    end = pattern.find("]", at + 2)
    inside = pattern[at + 1 : end]
    negated = inside.startswith("^")
    inside = inside.removeprefix("^")
    if end < 0 or not inside or "\\" in inside or "[" in inside:
        raise _UnsupportedError("has an unusual class [...]")
    chars: set[str] = set()
    i = 0
    while i < len(inside):
        if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
            first, last = ord(inside[i]), ord(inside[i + 2])
            if not first <= last < 128:
                raise _UnsupportedError("has an unusual class [...]")
            chars |= set(map(chr, range(first, last + 1)))
            i += 3
        else:
            chars.add(inside[i])
            i += 1
    return _Token(frozenset(chars), negated), end + 1


def _parse_repetition(token: _Token, pattern: str, at: int) -> tuple[list[_Sequence], int]:
    """Apply *, + or ? to a token; return alternatives and the next position."""
    sign = pattern[at : at + 1]
    if sign == "{":
        raise _UnsupportedError("has {...}")
    if not sign or sign not in "*+?":
        return [(token,)], at
    if token in (_START, _END):
        raise _UnsupportedError("repeats ^ or $")
    at += 1
    if pattern[at : at + 1] == "?":  # a non-greedy match matches the same names
        at += 1
    elif pattern[at : at + 1] in ("*", "+") and at < len(pattern):
        raise _UnsupportedError("repeats a repetition")
    many = token._replace(optional=True, repeated=True)
    if sign == "?":
        return [(token._replace(optional=True),)], at
    return [(many,) if sign == "*" else (token, many)], at
