"""Photographs in the cells of parquet files."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.rows import Context, Outcome, Rejected
from step1x_jax.curation.engine.source import Unit, id_of
from step1x_jax.curation.sources.photograph_rows import (
    LICENCE,
    UNIT_BYTES,
    URL,
    StoredPhotographs,
)
from step1x_jax.data.parquet import convert_errors, import_pyarrow, read_cell
from step1x_jax.data.paths import make_printable, stamp, walk
from step1x_jax.errors import UserError, require
from step1x_jax.files import user_path


@dataclasses.dataclass
class ParquetPictures(StoredPhotographs):
    """Rows of parquet files; a damaged file is one row that is rejected.

    Cells are bytes, or Hugging Face's {bytes, path}. Columns `licence` and `url` are of the row.

    `path` is a file, or a folder of such files and all below it.

    Attributes:
      column: with the pictures.
    """

    column: str = "image"

    def validate(self) -> None:
        """See `Stage`."""
        super().validate()
        require(bool(self.column), "column", self.column, "name the column with the pictures")

    def units(self) -> Sequence[Unit]:
        """See `Source`."""
        import_pyarrow()
        found = list(files_below(self.path, ".parquet"))
        return [unit for path, name in found for unit in self._units(path, name)]

    def _units(self, path: epath.Path, name: str) -> Iterator[Unit]:
        changes = digest_of(name, stamp(path) or "")
        try:
            with convert_errors(str(path)), path.open("rb") as stream:
                metadata = import_pyarrow().parquet.read_metadata(stream)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            shapes = [(group.num_rows, group.total_byte_size) for group in groups]
        except UserError as e:
            yield Unit((str(path), name, 0, 0, str(e)), changes)
            return
        begin = 0
        for count, size in shapes:  # a part is of one row group, which is read as a whole
            most = max(1, min(self.rows, UNIT_BYTES * count // max(size, 1)))
            for first in range(begin, begin + count, most):
                last = min(first + most, begin + count)
                yield Unit((str(path), name, first, last, ""), digest_of(changes, [first, last]))
            begin += count

    def read(self, payload: Any, context: Context) -> Iterator[tuple[str, Outcome]]:
        """See `Source`."""
        path, name, first, last, damage = payload
        if damage:
            yield id_of(name), Rejected("damaged_file", damage, {"name": name})
            return
        facts = _facts(path, first, last)
        for row in range(first, last):
            inner = f"{name}#{row}"
            yield id_of(inner), self._row(path, row, inner, facts[row - first])

    def _row(self, path: str, row: int, name: str, facts: dict[str, Any]) -> Outcome:
        try:
            data = read_cell(path, row, self.column)
        except UserError as e:
            return Rejected("unreadable_picture", str(e), {"name": name})
        return self.photograph(data, name, facts)


def _facts(path: str, first: int, last: int) -> list[dict[str, Any]]:
    """Of rows the columns that say where a picture is from."""
    try:
        with convert_errors(path):
            parquet = import_pyarrow().parquet
            names = parquet.read_schema(path).names
            known = [name for name in (*LICENCE, *URL) if name in names]
            if not known:
                return [{}] * (last - first)
            return parquet.read_table(path, columns=known).slice(first, last - first).to_pylist()
    except UserError:  # told with each picture
        return [{}] * (last - first)


def files_below(path: str, *endings: str) -> Iterator[tuple[epath.Path, str]]:
    """A file, or a folder's and all below it that end so, sorted; each with its name for people.

    Raises:
      UserError: there is none.
    """
    root = epath.Path(user_path(path))
    if root.is_file():
        yield root, make_printable(root.name)
        return
    files = [
        folder / name
        for folder, names, _ in walk(root)
        for name in names
        if name.lower().endswith(endings)
    ]
    if not files:
        raise UserError(
            f"{root} is no file, and no folder with files that end in {', '.join(endings)}."
        )
    for file in sorted(files):
        yield file, make_printable(file.relative_to(root).as_posix())
