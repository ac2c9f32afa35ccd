"""Precomputes a data set from triplets: what training would otherwise recompute in every step.

The work is split into chunks (chunks.py), which are distributed over the processes and made by
chunk_maker.py. The process that finds all chunks complete writes dataset.json.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.data.batch_encoder import Models
from step1x_jax.data.chunk_maker import ChunkMaker, MadeChunks, OnRow
from step1x_jax.data.chunks import (
    Chunk,
    Input,
    check_pictures,
    check_settings,
    find_chunk,
    join_manifests,
    split_chunks,
)
from step1x_jax.data.manifest import MANIFEST, REJECTED, BadRow, Manifest, write_manifest
from step1x_jax.errors import require
from step1x_jax.files import exclusive, fingerprint, replacing

MAX_SIZE_LEVEL = 8192  # pixels; the models were trained for 512 to 1024


@dataclasses.dataclass
class PrecomputeResult:
    """The result of a run of `precompute`.

    Attributes:
      manifest: manifest of the data set; None while chunks of other processes are missing.
      bad_rows: all rows that are left out; while chunks are missing, only those of this process.
      missing: number of missing chunks.
      pictures: number of pictures encoded by this run.
      seconds: time to encode and write them, without loading the models.
      waited: seconds of it during which the devices were idle.
    """

    manifest: Manifest | None
    bad_rows: list[BadRow]
    missing: int
    pictures: int
    seconds: float
    waited: float


def make_settings(
    size: int,
    encoder: EncoderConfig,
    autoencoder: epath.PathLike,
    negatives: float = 1.0,
    min_kept: float = 0.0,
) -> dict[str, Any]:
    """Return the settings that determine the content of the records; stored in the manifest.

    Args:
      size: size level in pixels, see buckets.py.
      encoder: config of the text encoder; all fields count, its model by `fingerprint`.
      autoencoder: file or folder of the VAE; counts by `fingerprint`.
      negatives: fraction of the edits that also get the embedding of the empty instruction, 0 to 1.
      min_kept: smallest fraction of each picture that its crop must keep, 0 to 1; other edits are
        left out.

    Raises:
      UserError: a model does not exist, or a number is out of range.
    """
    require(0 <= negatives <= 1, "negatives", negatives, "use 0 to 1")
    require(0 <= min_kept <= 1, "min_kept", min_kept, "use 0 to 1")
    require(32 <= size <= MAX_SIZE_LEVEL, "size", size, f"use 32 to {MAX_SIZE_LEVEL}")
    reading = dataclasses.asdict(encoder)
    return {
        "size": size,
        "encoder": fingerprint(reading.pop("path")),
        "autoencoder": fingerprint(autoencoder),
        "encoder_dtype": reading.pop("dtype"),
        "negatives": negatives,
        "min_kept": min_kept,
        **reading,
    }


def precompute(
    inputs: Sequence[Input],
    output: epath.PathLike,
    settings: dict[str, Any],
    load_models: Callable[[], Models],
    *,
    chunk_size: int = 1024,
    batch_size: int = 8,
    threads: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    on_row: OnRow = lambda bad: None,
) -> PrecomputeResult:
    """Make a data set, or this process's share of it; resumes a partial one.

    Args:
      inputs: the lists of edits.
      output: folder to write to, the same for all processes.
      settings: see `make_settings`; stored, and compared with those of existing data in the folder.
      load_models: loads both models; not called if all chunks are complete.
      chunk_size: number of edits in a chunk.
      batch_size: number of edits in a batch.
      threads: number of threads that load edits; None: one per core.
      process_index: index of this process.
      process_count: number of processes; each makes every process_count-th chunk.
      on_row: called once per edit of this process: with None, or with why it is left out.

    Returns:
      The manifest of the data set and the rows that are left out.

    Raises:
      UserError: the folder was made with other settings, or the disk is full.
    """
    output = epath.Path(output)
    check_settings(output, settings)
    with exclusive(
        output / f".process-{process_index}.lock",
        f"another launch.precompute is at work on this share of {output}; wait until it ends, or"
        " give each process its own --process_index.",
    ):
        chunks = split_chunks(inputs, chunk_size)
        check_pictures(inputs, chunks)
        mine, todo = _find_done(output, chunks[process_index::process_count], on_row)
        made = MadeChunks({})
        if todo:
            maker = ChunkMaker(output, settings, load_models(), batch_size, threads)
            made = maker.make(todo, on_row)
            mine |= made.manifests
        speed = (made.pictures, made.seconds, made.waited)

        found = [
            mine.get(chunk.name) or find_chunk(output, chunk, mine=False).manifest
            for chunk in chunks
        ]
        manifests = [manifest for manifest in found if manifest is not None]
        if missing := len(chunks) - len(manifests):
            bad_rows = [bad for manifest in mine.values() for bad in manifest.bad_rows]
            return PrecomputeResult(None, bad_rows, missing, *speed)
        manifest, bad_rows = join_manifests(inputs, chunks, manifests, settings)
        _write_rejected(output, bad_rows)
        write_manifest(output / MANIFEST, manifest)
        return PrecomputeResult(manifest, bad_rows, 0, *speed)


def _find_done(
    output: epath.Path, chunks: Sequence[Chunk], on_row: OnRow
) -> tuple[dict[str, Manifest], list[tuple[Chunk, int]]]:
    """Find this process's complete chunks; calls `on_row` for their edits.

    Returns:
      The manifests of the complete chunks by name; and the other chunks, each with the number of
      times its pictures have changed.
    """
    done, todo = {}, []
    for chunk in chunks:
        found = find_chunk(output, chunk, mine=True)
        if found.manifest is None:
            todo.append((chunk, found.changes))
            continue
        done[chunk.name] = found.manifest
        faults = {bad.row: bad for bad in found.manifest.bad_rows}
        for triplet in chunk.triplets:
            on_row(faults.get(triplet.row))
    return done, todo


def _write_rejected(output: epath.Path, bad_rows: Sequence[BadRow]) -> None:
    with replacing(output / REJECTED) as temporary:
        rows = (json.dumps(vars(bad), ensure_ascii=False) + "\n" for bad in bad_rows)
        temporary.write_bytes("".join(rows).encode())
