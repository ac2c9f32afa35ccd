"""Pictures in parquet files."""

import pytest

from step1x_jax.curation.sources import tables
from step1x_jax.curation.sources.tables import ParquetPictures
from step1x_jax.errors import UserError
from tests.curation.sources.reading import parts_of, png, rows_of

pytestmark = pytest.mark.parquet


@pytest.fixture
def folder(tmp_path):
    """Two files: of 5 rows in row groups of 3, and of cells as Hugging Face has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [png(i) for i in range(5)]
    cells[3] = b"torn"
    first = pa.table({"image": cells, "license": ["CC0", None, "", "MIT", "CC BY"]})
    pq.write_table(first, tmp_path / "a.parquet", row_group_size=3)
    second = pa.table({"image": [{"bytes": png(7), "path": "x.png"}], "url": ["https://x"]})
    (tmp_path / "sub").mkdir()
    pq.write_table(second, tmp_path / "sub/b.parquet")
    return tmp_path


def test_rows(folder):
    rows = rows_of(ParquetPictures(str(folder), licence="unknown", url="https://all"))
    assert rows.pop(3) == "unreadable_picture"
    assert [row["name"] for row in rows] == [
        "a.parquet#0", "a.parquet#1", "a.parquet#2", "a.parquet#4", "sub/b.parquet#0"
    ]  # fmt: skip
    assert [row["picture"] for row in rows] == [png(i) for i in (0, 1, 2, 4, 7)]
    assert [row["licence"] for row in rows] == ["CC0", "unknown", "unknown", "CC BY", "unknown"]
    assert [row["url"] for row in rows][-2:] == ["https://all", "https://x"]


def test_a_part_is_of_one_row_group(folder, monkeypatch):
    source = ParquetPictures(str(folder / "a.parquet"))
    assert [len(part) for part in parts_of(source)] == [3, 2]
    assert [len(part) for part in parts_of(ParquetPictures(str(folder), rows=2))] == [2, 1, 2, 1]
    monkeypatch.setattr(tables, "UNIT_BYTES", 1)
    assert [len(part) for part in parts_of(source)] == [1] * 5


def test_a_damaged_file_is_a_row(folder):
    path = folder / "a.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    rows = rows_of(ParquetPictures(str(folder)))
    assert rows[0] == "damaged_file"
    assert [row["name"] for row in rows[1:]] == ["sub/b.parquet#0"]


def test_another_column(folder):
    assert set(rows_of(ParquetPictures(str(folder), column="none"))) == {"unreadable_picture"}


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"no folder with files that end in \.parquet"):
        rows_of(ParquetPictures(str(tmp_path)))
    with pytest.raises(UserError, match="column is ''"):
        rows_of(ParquetPictures(str(tmp_path), column=""))
