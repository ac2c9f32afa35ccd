"""Makes chunks, from rows to complete files: load, batch, encode, write.

Three stages overlap: threads load edits (edit_loader.py), the devices run the models
(batch_encoder.py), and a thread writes records (batch_writer.py).
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
from etils import epath

from step1x_jax.data.batch_encoder import BatchEncoder, EncodedBatch, Models
from step1x_jax.data.batch_writer import BatchWriter
from step1x_jax.data.chunks import Chunk, manifest_path, shard_prefix
from step1x_jax.data.edit_loader import EditLoader, LoadedEdit, LoadedRow
from step1x_jax.data.identity import describe_pictures
from step1x_jax.data.manifest import BadRow, Manifest
from step1x_jax.data.shards import open_shard_writer
from step1x_jax.data.sources import Triplet
from step1x_jax.files import replacing

OnRow = Callable[[BadRow | None], None]  # called for each edit: None, or why it is left out


@dataclasses.dataclass
class MadeChunks:
    """The chunks that were made, and the time it took.

    Attributes:
      manifests: manifest of each chunk, by the chunk's name.
      pictures: number of encoded pictures.
      seconds: wall-clock time.
      waited: seconds of it during which the devices were idle.
    """

    manifests: dict[str, Manifest]
    pictures: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class ChunkMaker:
    """Encodes chunks and writes them to disk."""

    def __init__(
        self,
        output: epath.Path,
        settings: dict[str, Any],
        models: Models,
        batch_size: int,
        threads: int | None = None,
    ):
        """Store what all chunks share; for the arguments see `precompute`."""
        self._output = output
        self._settings = settings
        self._models = models
        self._batch_size = batch_size
        self._threads = threads or os.cpu_count() or 1

    def make(self, chunks: Sequence[tuple[Chunk, int]], on_row: OnRow) -> MadeChunks:
        """Make chunks. A chunk's files appear when it is complete, its manifest last.

        Args:
          chunks: each chunk with the number of times its pictures have changed.
          on_row: called once per edit.

        Raises:
          UserError: the disk is full.
        """
        started = time.perf_counter()
        encoder = BatchEncoder(self._models, self._batch_size)
        rows = self._load([triplet for chunk, _ in chunks for triplet in chunk.triplets])
        manifests = {}
        for chunk, changes in chunks:
            log = _RowLog(on_row)
            edits = log.filter_usable(itertools.islice(rows, len(chunk.triplets)))
            batches = map(encoder.encode, batch_by_shape(edits, self._batch_size))
            manifests[chunk.name] = self._write(chunk, changes, batches, log)
        pictures = 2 * sum(manifest.records for manifest in manifests.values())
        return MadeChunks(manifests, pictures, time.perf_counter() - started, encoder.idle)

    def _load(self, triplets: Sequence[Triplet]) -> Iterator[LoadedRow]:
        """Yield the rows in order; threads prefetch the next ones, also across chunks."""
        settings = self._settings
        loader = EditLoader(
            self._models.encoder,
            settings["size"],
            negatives=settings["negatives"],
            min_kept=settings.get("min_kept", 0.0),
        )
        options = grain.ReadOptions(self._threads, max(self._threads, 2 * self._batch_size))
        return iter(grain.MapDataset.source(triplets).map(loader.load).to_iter_dataset(options))

    def _write(
        self, chunk: Chunk, changes: int, batches: Iterable[EncodedBatch], log: "_RowLog"
    ) -> Manifest:
        """Write a chunk's files; on an error none of them is left."""
        with (
            # Contexts exit in reverse order: the shards are renamed first, the manifest last.
            replacing(manifest_path(self._output, chunk)) as manifest_file,
            open_shard_writer(self._output, shard_prefix(chunk, changes)) as shards,
            BatchWriter(shards) as writer,
        ):
            for batch in batches:
                log.note(writer.write(batch))
            log.note(writer.finish())
            position = {triplet.row: i for i, triplet in enumerate(chunk.triplets)}
            manifest = Manifest(
                self._settings,
                shards.close(),
                sorted(log.bad_rows, key=lambda bad: position[bad.row]),
                pictures=describe_pictures(chunk.stamp, log.digests, changes),
            )
            manifest_file.write_bytes(manifest.to_json().encode())
        return manifest


def batch_by_shape(edits: Iterable[LoadedEdit], size: int) -> Iterator[list[LoadedEdit]]:
    """Yield batches of `size` edits of one shape as they fill up, then the partial batches."""
    waiting: dict[tuple[int, ...], list[LoadedEdit]] = {}
    for edit in edits:
        shape = edit.source.shape
        waiting.setdefault(shape, []).append(edit)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()


class _RowLog:
    """Collects what a chunk's manifest records about its rows, and calls `on_row` for each.

    Attributes:
      bad_rows: rows that are left out, in the order in which they were found.
      digests: digests of all rows' pictures, in the order of the rows.
    """

    def __init__(self, on_row: OnRow):
        self.bad_rows: list[BadRow] = []
        self.digests: list[str] = []
        self._on_row = on_row

    def filter_usable(self, rows: Iterable[LoadedRow]) -> Iterator[LoadedEdit]:
        """Yield the edits that were loaded; record the other rows, and the digests of all."""
        for row in rows:
            self.digests += row.digests
            if isinstance(row.edit, BadRow):
                self.note([row.edit])
            else:
                yield row.edit

    def note(self, outcomes: Iterable[BadRow | None]) -> None:
        """Record the outcomes of rows: None, or why a row is left out."""
        for bad in outcomes:
            if bad is not None:
                self.bad_rows.append(bad)
            self._on_row(bad)
