"""A benchmark's rows as files that others read: parquet as on Hugging Face, or a list and pictures.

Both are read by `datasets.read_samples`; the parquet file by Hugging Face's load_dataset, too, for
its metadata says which columns are pictures.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from step1x_jax.data.parquet import import_pyarrow
from step1x_jax.evaluation.tables import LIST

PARQUET = "data/train-00000-of-00001.parquet"
ROWS = 50  # of a row group, which is read as a whole

Row = Mapping[str, str | bool | bytes | None]  # by column; bytes are those of a PNG file
Writer = Callable[[epath.Path, Iterable[Row]], None]


def write_parquet(folder: epath.Path, rows: Iterable[Row]) -> None:
    """Write one parquet file with the pictures in its cells.

    Args:
      folder: that exists and is empty.
      rows: all with the same columns.

    Raises:
      UserError: pyarrow is missing.
    """
    arrow = import_pyarrow()
    rows = iter(rows)
    batch = list(itertools.islice(rows, ROWS))
    if not batch:
        return
    path, schema = folder / PARQUET, _schema(batch[0])
    path.parent.mkdir()
    with arrow.parquet.ParquetWriter(str(path), schema) as writer:
        while batch:
            values = [{name: _cell(value) for name, value in row.items()} for row in batch]
            writer.write_table(arrow.Table.from_pylist(values, schema))
            batch = list(itertools.islice(rows, ROWS))


def _schema(row: Row) -> Any:
    """Types of columns as pyarrow has them, and as datasets has them, in the file's metadata."""
    arrow = import_pyarrow()
    types, features = {}, {}
    for name, value in row.items():
        if isinstance(value, bytes):
            types[name] = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
            features[name] = {"_type": "Image"}
        else:
            flag = value is None or isinstance(value, bool)
            types[name] = arrow.bool_() if flag else arrow.string()
            features[name] = {"dtype": "bool" if flag else "string", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return arrow.schema(list(types.items()), metadata=metadata)


def _cell(value: Any) -> Any:
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value


def write_listed(folder: epath.Path, rows: Iterable[Row]) -> None:
    """Write metadata.jsonl, and each column's pictures into a folder of its name.

    Args:
      folder: that exists and is empty.
      rows: all with the same columns.
    """
    with open(folder / LIST, "w", encoding="utf-8") as lines:
        for number, row in enumerate(rows):
            values: dict[str, Any] = {}
            for name, value in row.items():
                if isinstance(value, bytes):
                    (folder / name).mkdir(exist_ok=True)
                    values[name] = f"{name}/{number:05}.png"
                    (folder / values[name]).write_bytes(value)
                else:
                    values[name] = value
            lines.write(json.dumps(values, ensure_ascii=False) + "\n")


WRITERS: dict[str, Writer] = {"parquet": write_parquet, "folder": write_listed}
