"""Rows of a part, joined from the files of several stages."""

import dataclasses
from collections.abc import Iterator, Sequence

from step1x_jax.curation.engine.columns import Columns, decode, digest_of
from step1x_jax.curation.engine.history import ColumnLayer
from step1x_jax.curation.engine.part_files import STATE, read_columns
from step1x_jax.curation.engine.rows import ID, OK, PARENT, Row


@dataclasses.dataclass
class Given:
    """A row as it came from the stages before.

    Attributes:
      id: of the row.
      state: values of STATE.
      values: as stored; None where the row did not come to the stage that writes it.
      input: digest of these, of rows that go on.
    """

    id: str
    state: tuple[str, ...]
    values: Row
    input: str = ""


def live_rows(layers: Sequence[ColumnLayer], columns: Columns) -> Iterator[Row]:
    """The rows of a part that go on, with their ids and some columns, as stages have them."""
    for one in read_given(layers, columns):
        if one.state[0] == OK:
            yield as_row(one, columns)


def all_rows(layers: Sequence[ColumnLayer], columns: Columns) -> Iterator[Row]:
    """All rows of a part, also with STATE, what became of them."""
    for one in read_given(layers, columns):
        yield as_row(one, columns) | dict(zip(STATE, one.state, strict=True))


def as_row(given: Given, columns: Columns) -> Row:
    """A row as stages have it."""
    return {ID: given.id} | {name: decode(given.values[name], columns[name]) for name in columns}


def read_given(layers: Sequence[ColumnLayer], columns: Columns) -> list[Given]:
    """The rows of a part in their order.

    Args:
      layers: see `History.layers`.
      columns: to read; None where nobody wrote one.
    """
    first = layers[0]
    given: list[Given] = []
    places: list[str] = []  # of each row: its id in the layer
    for layer in layers:
        wanted = {ID: str, **layer.columns}
        wanted |= {PARENT: str} if layer.many else {}
        wanted |= dict.fromkeys(STATE, str) if layer is first else {}
        values = read_columns(layer.path, wanted)
        if layer is first:
            states = zip(*(values[name] for name in STATE), strict=True)
            given = [
                Given(id, state, dict.fromkeys(columns))
                for id, state in zip(values[ID], states, strict=True)
            ]
            places = list(values[ID])
        rows = {id: number for number, id in enumerate(values[ID])}
        for number, one in enumerate(given):
            row = rows[places[number]]
            one.values |= {name: values[name][row] for name in layer.columns}
            if layer.many:
                places[number] = values[PARENT][row]
    for one in given:
        if one.state[0] == OK:
            one.input = digest_of(one.id, *(one.values[name] for name in sorted(columns)))
    return given
