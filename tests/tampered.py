"""JSON texts with one value changed, as a careless program or a stranger may write them."""

import copy
import json
from collections.abc import Iterator
from typing import Any

# Each is tried in the place of every value. What json cannot write is put in as text afterwards.
RAW = {
    "a number of 5000 digits": "9" * 5000,
    "100,000 open brackets": "[" * 100_000,
    "NaN": "NaN",
    "infinity": "1e999",
    "half a surrogate": '"\\ud83c"',
}
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a text": "6",
    "a long text": "x" * 100_000,
    "-6": -6,
    "0": 0,
    "half a number": 1.5,
    "a huge whole number": 10**20,
    "a large whole number": 10**9,
    "a huge number": 1e300,
    "an empty list": [],
    "a list of lists": [[1], [2]],
    "an object": {"a": 1},
    "a path out of the folder": "../x",
    "an absolute path": "/etc/passwd",
}
MARK = "@@tampered@@"


def tampered(values: Any) -> Iterator[tuple[str, str]]:
    """Changed copies of a JSON value.

    Args:
      values: as json gives it.

    Yields:
      What was done, and the text: every value inside replaced by every one of the above, and every
      field of an object left out.
    """
    for path in _paths(values):
        where = "".join(f"[{key!r}]" for key in path)
        for name, value in VALUES.items():
            yield f"{where} = {name}", json.dumps(_with(values, path, value))
        for name, text in RAW.items():
            yield (
                f"{where} = {name}",
                json.dumps(_with(values, path, MARK)).replace(f'"{MARK}"', text),
            )
        if path and isinstance(path[-1], str):
            yield f"without {where}", json.dumps(_with(values, path, _with))


def _paths(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _paths(value, (*path, key))
    elif isinstance(values, list):
        for i, value in enumerate(values[:2]):  # all others are alike
            yield from _paths(value, (*path, i))


def _with(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    values = copy.deepcopy(values)
    place = values
    for key in path[:-1]:
        place = place[key]
    if new is _with:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return values
