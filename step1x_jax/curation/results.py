"""The rows of a run that is done, for those who count, show and export them."""

from collections.abc import Collection, Iterator

from step1x_jax.curation.engine.columns import Columns
from step1x_jax.curation.engine.driver import Pipeline, finished
from step1x_jax.curation.engine.history import History
from step1x_jax.curation.engine.joining import all_rows, live_rows
from step1x_jax.curation.engine.rows import ID, Row
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.errors import UserError

# What a pipeline for edits has at its end.
EDIT: Columns = {
    "category": str,
    "source": bytes,
    "target": bytes,
    "instruction_en": str,
    "instruction_cn": str,
}
# What it may have besides.
MORE: Columns = {
    "group": str,
    "groups": list[str],  # of all photographs that went into the edit
    "licence": str,
    "licences": list[str],
    "url": str,
    "urls": list[str],
    "sha256": str,
    "mask": bytes,  # of the edited region: PNG, white where pixels may differ
    "references": list[bytes],  # further pictures that the instruction speaks of
    "method": str,  # what made the target
    "instruction_by": str,  # what wrote the instruction
}


class Results:
    """What came out of a run."""

    def __init__(self, pipeline: Pipeline, workdir: Workdir):
        """Look for all parts.

        Raises:
          UserError: the run is not done, with these settings.
        """
        self._history: History = finished(pipeline, workdir)

    def accepted(self, columns: Columns, ids: Collection[str] | None = None) -> Iterator[Row]:
        """The rows that went through all stages, in order.

        Args:
          columns: to read.
          ids: of the rows that are wanted; parts without any are not read. None: all.

        Raises:
          UserError: no stage writes one of the columns, unless it is in MORE.
        """
        self._check(columns)
        for key in self._history.files:
            if ids is not None and not any(
                row[ID] in ids for row in live_rows(self._history.layers(key, {}), {})
            ):
                continue
            for row in live_rows(self._history.layers(key, columns), columns):
                if ids is None or row[ID] in ids:
                    yield row

    def all(self, columns: Columns) -> Iterator[Row]:
        """All rows, also with what became of them: status, reason, detail, stage."""
        for key in self._history.files:
            yield from all_rows(self._history.layers(key, columns), columns)

    def _check(self, columns: Columns) -> None:
        known = self._history.columns
        missing = [name for name in columns if name not in known and name not in MORE]
        if missing:
            raise UserError(
                f"no stage of the config writes {', '.join(missing)}, which an edit must have; add"
                " one that does."
            )
        for name, kind in columns.items():
            if name in known and known[name] != kind:
                raise UserError(f"the column {name} is of type {known[name]}, not {kind}.")


def groups_of(row: Row) -> list[str]:
    """The groups of photographs that went into an edit."""
    return row.get("groups") or ([row["group"]] if row.get("group") else [])
