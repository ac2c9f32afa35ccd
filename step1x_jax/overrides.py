"""Change fields of a frozen config, named as the flags name them."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from step1x_jax.errors import UserError

T = TypeVar("T")


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a config with other values of some fields.

    Args:
      config: a dataclass, whose fields may hold dataclasses, or dicts of them.
      changes: the new values by the field's name in all of the config, such as
        {"data.batch_size": 32}.

    Raises:
      UserError: there is no such field; names it.
    """
    for name, value in changes.items():
        config = _override(config, name.split("."), value, name)
    return config


def _override(node: Any, path: Sequence[str], value: Any, name: str) -> Any:
    field, *rest = path
    if isinstance(node, dict):
        names = list(node)
    elif dataclasses.is_dataclass(node):
        names = [f.name for f in dataclasses.fields(node)]
    else:
        names = []
    if field not in names:
        close = difflib.get_close_matches(field, names, 1)
        advice = f"did you mean {close[0]}?" if close else "remove it."
        raise UserError(f"the config has no field {name}; {advice}")
    before = node[field] if isinstance(node, dict) else getattr(node, field)
    after = _override(before, rest, value, name) if rest else value
    if isinstance(node, dict):
        return {**node, field: after}
    return dataclasses.replace(node, **{field: after})
