"""All mutations, a module for each room of the package.

Each module has a TABLE: (file, tests that should notice) -> rows, which are

    (name, where, old, new)       or, if `old` occurs more than once there,
    (name, where, old, new, which)

`where` is a function's or class's qualified name (Editor.edit; "": the module itself), `old` and
`new` are parts of it, compared as trees: see tests/mutations/tree.py. Take the smallest `old` that
says what the mistake is. A mutation that changes nothing one could measure has no place here.
"""

import importlib
import pkgutil
from typing import NamedTuple

Row = tuple[str, str, str, str] | tuple[str, str, str, str, int]
Table = dict[tuple[str, str], list[Row]]


class Mutation(NamedTuple):
    """One plausible mistake."""

    file: str
    tests: str  # that should notice
    name: str
    where: str
    old: str
    new: str
    which: int | None = None


def read_mutations() -> list[Mutation]:
    """Those of all modules here."""
    names = [module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")]
    tables: list[Table] = [importlib.import_module(name).TABLE for name in names]
    return [
        Mutation(file, tests, *row)
        for table in tables
        for (file, tests), rows in table.items()
        for row in rows
    ]
