"""Facts about judges, in words: the footer of tables."""

from collections.abc import Iterable, Mapping
from typing import Any

MAY_DIFFER = ("date",)  # between methods that are compared


def describe_judges(judges: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line of Markdown for each judge.

    Args:
      judges: name -> method -> what judge.json says. Of what differs between methods, for which
        they cannot be compared, each one's value is told.
    """
    return "\n".join(f"- **{name}**: {'; '.join(_facts(of))}" for name, of in judges.items())


def _facts(methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name in dict.fromkeys(name for facts in methods.values() for name in facts):
        values = {method: facts.get(name) for method, facts in methods.items()}
        first, *others = values.values()
        if all(other == first for other in others):
            yield f"{name} {_in_words(first)}"
        else:
            each = ", ".join(f"{_in_words(value)} ({method})" for method, value in values.items())
            yield f"{name} {each}" if name in MAY_DIFFER else f"**{name} differs**: {each}"


def _in_words(value: Any) -> str:
    return "unknown" if value is None else str(value)
