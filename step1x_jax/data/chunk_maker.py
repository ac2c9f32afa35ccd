"""Chunks, from rows to complete files: load, batch, encode, write.

Three things happen at once: threads load edits (edit_loader.py), the devices run the models
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
from step1x_jax.data.identity import describe
from step1x_jax.data.manifest import BadRow, Manifest
from step1x_jax.data.shards import writing_shards
from step1x_jax.data.sources import Triplet
from step1x_jax.files import replacing

OnRow = Callable[[BadRow | None], None]  # told of each edit: None, or why it cannot be used


@dataclasses.dataclass
class MadeChunks:
    """Chunks that were made, and how fast that was.

    Attributes:
      manifests: by the chunks' names.
      pictures: how many were encoded.
      seconds: that this took.
      waited: seconds of these in which the devices had nothing to do.
    """

    manifests: dict[str, Manifest]
    pictures: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class ChunkMaker:
    """Takes chunks through the models and onto disk."""

    def __init__(
        self,
        output: epath.Path,
        settings: dict[str, Any],
        models: Models,
        batch_size: int,
        threads: int | None = None,
    ):
        """Takes what all chunks have in common; the arguments are those of `precompute`."""
        self._output = output
        self._settings = settings
        self._models = models
        self._batch_size = batch_size
        self._threads = threads or os.cpu_count() or 1

    def make(self, chunks: Sequence[tuple[Chunk, int]], on_row: OnRow) -> MadeChunks:
        """Makes chunks; each gets its names when it is complete, its manifest last.

        Args:
          chunks: to be made, and how often their pictures have changed.
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
            edits = log.usable(itertools.islice(rows, len(chunk.triplets)))
            batches = map(encoder.encode, batch_by_shape(edits, self._batch_size))
            manifests[chunk.name] = self._write(chunk, changes, batches, log)
        pictures = 2 * sum(manifest.records for manifest in manifests.values())
        return MadeChunks(manifests, pictures, time.perf_counter() - started, encoder.idle)

    def _load(self, triplets: Sequence[Triplet]) -> Iterator[LoadedRow]:
        """The rows in their order; threads load the next ones meanwhile, across chunks."""
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
        """Writes a chunk's files; nothing of them is there if anything is raised."""
        with (
            # Files get their names from the last to the first: the manifest after the shards.
            replacing(manifest_path(self._output, chunk)) as manifest_file,
            writing_shards(self._output, shard_prefix(chunk, changes)) as shards,
            BatchWriter(shards) as writer,
        ):
            for batch in batches:
                log.note(writer.write(batch))
            log.note(writer.finish())
            place = {triplet.row: i for i, triplet in enumerate(chunk.triplets)}
            manifest = Manifest(
                self._settings,
                shards.close(),
                sorted(log.bad_rows, key=lambda bad: place[bad.row]),
                pictures=describe(chunk.stamp, log.digests, changes),
            )
            manifest_file.write_bytes(manifest.to_json().encode())
        return manifest


def batch_by_shape(edits: Iterable[LoadedEdit], size: int) -> Iterator[list[LoadedEdit]]:
    """Batches of `size` edits of one shape, as they become full; at the end those that are not."""
    waiting: dict[tuple[int, ...], list[LoadedEdit]] = {}
    for edit in edits:
        shape = edit.source.shape
        waiting.setdefault(shape, []).append(edit)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()


class _RowLog:
    """Notes what a chunk's manifest says of its rows, and tells `on_row` of each.

    Attributes:
      bad_rows: that cannot be used, in the order in which that was found out.
      digests: of all rows' pictures, in the rows' order.
    """

    def __init__(self, on_row: OnRow):
        self.bad_rows: list[BadRow] = []
        self.digests: list[str] = []
        self._on_row = on_row

    def usable(self, rows: Iterable[LoadedRow]) -> Iterator[LoadedEdit]:
        """The edits that could be loaded; notes the others, and the digests of all."""
        for row in rows:
            self.digests += row.digests
            if isinstance(row.edit, BadRow):
                self.note([row.edit])
            else:
                yield row.edit

    def note(self, outcomes: Iterable[BadRow | None]) -> None:
        """Notes what became of some rows: None, or why a row cannot be used."""
        for bad in outcomes:
            if bad is not None:
                self.bad_rows.append(bad)
            self._on_row(bad)
