"""Triplets to shards: everything that training would otherwise compute again at every step.

The work is cut into chunks (chunks.py), which the processes share out and chunk_maker.py makes;
dataset.json is written by the process that finds all chunks there.
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

LARGEST_SIZE = 8192  # pixels; the models were made for 512 to 1024


@dataclasses.dataclass
class Outcome:
    """What a run of `precompute` did.

    Attributes:
      manifest: of the data set; None while chunks of other processes are missing.
      bad_rows: all that are not in it; those of this process, while chunks are missing.
      missing: how many chunks are missing.
      pictures: how many were encoded, not counting what was there already.
      seconds: that this took, without loading the models.
      waited: seconds of these in which the devices had nothing to do.
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
    """What decides the records' content: noted in the manifest, of which a data set has one.

    Args:
      size: size level, see buckets.py.
      encoder: which counts with all its fields, its model by `fingerprint`.
      autoencoder: its file or folder, counts by `fingerprint`.
      negatives: fraction of the edits that get the embedding of the empty instruction, too.
      min_kept: smallest part of each picture that its crop may leave; other edits are left out.

    Raises:
      UserError: a model is not there, or a number is out of its bounds.
    """
    require(0 <= negatives <= 1, "negatives", negatives, "use 0 to 1")
    require(0 <= min_kept <= 1, "min_kept", min_kept, "use 0 to 1")
    require(32 <= size <= LARGEST_SIZE, "size", size, f"use 32 to {LARGEST_SIZE}")
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
) -> Outcome:
    """Makes a data set, or this process's share of it, or finishes one.

    Args:
      inputs: the edits.
      output: folder to write to, the same for all processes.
      settings: see `make_settings`; noted, and compared with what the folder was made with.
      load_models: loads both models; not called if everything is done already.
      chunk_size: edits in a chunk.
      batch_size: edits that go through the models at once.
      threads: that read pictures; None: one for each core.
      process_index: of this process.
      process_count: of all; each takes every process_count-th chunk.
      on_row: called once per edit of this process, with its fault if it has one.

    Returns:
      The data set's manifest and what could not be used.

    Raises:
      UserError: the folder was made with other settings, or the disk is full.
    """
    output = epath.Path(output)
    check_settings(output, settings)
    with exclusive(
        output / f".process-{process_index}.lock",
        f"another launch.precompute is at work on this share of {output}; wait for its end, or give"
        " each of several processes a --process_index of its own.",
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
            return Outcome(None, bad_rows, missing, *speed)
        manifest, bad_rows = join_manifests(inputs, chunks, manifests, settings)
        _write_rejected(output, bad_rows)
        write_manifest(output / MANIFEST, manifest)
        return Outcome(manifest, bad_rows, 0, *speed)


def _find_done(
    output: epath.Path, chunks: Sequence[Chunk], on_row: OnRow
) -> tuple[dict[str, Manifest], list[tuple[Chunk, int]]]:
    """Looks for this process's chunks; tells `on_row` of the edits of those that are there.

    Returns:
      The manifests of chunks that are there, by name; the others, and how often the pictures of
      each have changed.
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
