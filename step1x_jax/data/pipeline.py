"""Batches for training. The batch of a step is a pure function of config, seed and step.

Every bucket is shuffled anew in each of its epochs and cut into global batches, of which a process
takes its slice; the buckets take turns by a plan that all processes share. Nothing is remembered
between steps, so that going on at a step costs nothing and the number of processes may change.
"""

import bisect
import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterator, Sequence

import grain
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from step1x_jax.data.local_copy import on_local_disk
from step1x_jax.data.manifest import MANIFEST, Manifest, read_manifest
from step1x_jax.data.mixing import BucketPlan, drop_rate, pools, random_stream, turns
from step1x_jax.data.records import DamagedRecordError, EditRecord
from step1x_jax.data.shards import ShardInfo, ShardReader, check_size
from step1x_jax.errors import UserError, require

OPEN_SHARDS = 64  # per bucket and process


@dataclasses.dataclass
class DataConfig:
    """Which data and how it is read."""

    path: str = ""  # a folder that launch.precompute made
    batch_size: int = 8  # edits in a step, over all processes
    caption_dropout: float = 0.1  # how often an edit is trained on the empty instruction instead
    max_bad_records: int = 0  # damaged records for which others may stand in, in each process
    threads: int = 2  # that read batches ahead, in each process

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.batch_size > 0, "data.batch_size", self.batch_size, "use a positive number")
        dropout = self.caption_dropout
        require(0 <= dropout <= 1, "data.caption_dropout", dropout, "use 0 to 1")
        bad = self.max_bad_records
        require(bad >= 0, "data.max_bad_records", bad, "use 0 or more")
        require(self.threads >= 0, "data.threads", self.threads, "use 0 or more")


def make_batches(
    config: DataConfig,
    *,
    text_length: int,
    seed: int,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches from a step on.

    Args:
      config: which data.
      text_length: T, to which texts are padded.
      seed: of the run.
      start_step: the step of the first batch.
      process_index: of this process.
      process_count: of all processes; each gets batch_size / process_count edits of a batch.

    Returns:
      An iterator over dicts of arrays, b edits each, all of one latent size (h, w):
        target, source: (b, h, w, 16) bfloat16 latents;
        text: (b, T, C) bfloat16 embeddings, zero behind their lengths;
        text_lengths: (b,) int32;
        ids: (b,) strings, the records' names, for people.

    Raises:
      UserError: the data set is incomplete or damaged (for damaged records: when they are met), or
        does not fit the config.
    """
    config.validate()
    require(
        config.batch_size % process_count == 0,
        "data.batch_size", config.batch_size, f"use a multiple of the {process_count} processes",
    )  # fmt: skip
    manifest = _read_manifest(config, text_length)
    folder = on_local_disk(data_folder(config), manifest)
    for shard in manifest.shards:
        check_size(folder / shard.file, shard)
    mine = config.batch_size // process_count
    batches = [
        bucket.batch(mine, drop_remainder=True, batch_fn=list)[process_index::process_count]
        for bucket in _open_buckets(config, folder, manifest, seed)
    ]
    dropout = drop_rate(manifest, config.caption_dropout)
    assemble = functools.partial(_assemble, config, dropout, text_length, seed, process_index)
    plan = BucketPlan(turns(manifest), seed)
    steps = grain.MapDataset.select_from_datasets(batches, plan).map_with_index(assemble)
    options = grain.ReadOptions(config.threads, prefetch_buffer_size=max(config.threads, 1))
    return iter(steps[start_step:].to_iter_dataset(options))


def data_folder(config: DataConfig) -> epath.Path:
    """The folder of the records.

    Raises:
      UserError: none is given.
    """
    if not config.path:
        raise UserError("data.path is not set; give the folder that launch.precompute made.")
    return epath.Path(config.path)


def _read_manifest(config: DataConfig, text_length: int) -> Manifest:
    """The manifest, after a look at whether it fits."""
    folder = data_folder(config)
    manifest = read_manifest(folder / MANIFEST)
    if not manifest.records:
        raise UserError(f"{folder} holds no records; run launch.precompute on another input.")
    for shard in manifest.shards:
        if shard.longest_text > text_length:
            raise UserError(
                f"{folder} has texts of {shard.longest_text} tokens, model.text_length is"
                f" {text_length}; raise it, or run launch.precompute with fewer --max_pixels."
            )
    return manifest


def _open_buckets(
    config: DataConfig, folder: epath.Path, manifest: Manifest, seed: int
) -> list[grain.MapDataset]:
    """The records of each bucket, endless, each pool of it in an order of its own."""
    tolerance = Tolerance(config.max_bad_records)
    datasets, largest, buckets = [], 0, pools(manifest)
    for number, bucket in enumerate(buckets):
        opened = [RecordSequence(folder, pool.shards, tolerance) for pool in bucket]
        largest = max(largest, sum(map(len, opened)))
        endless = [
            grain.MapDataset.source(records)
            .shuffle(int(random_stream(seed, "shuffle", number + i * len(buckets)).integers(2**32)))
            .repeat()
            for i, records in enumerate(opened)
        ]
        weights = [pool.share for pool in bucket]
        datasets.append(endless[0] if len(endless) == 1 else grain.MapDataset.mix(endless, weights))
    if largest < config.batch_size:
        logging.warning(
            "No bucket of %s fills a batch of %d (the largest holds %d): edits repeat in a batch.",
            config.path, config.batch_size, largest,
        )  # fmt: skip
    return datasets


class Tolerance:
    """Counts damaged records, each once, and ends the patience with them; shared by threads."""

    def __init__(self, limit: int):
        self._limit = limit
        self._met: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def meet(self, shard: str, index: int, error: DamagedRecordError) -> None:
        """Notes a damaged record.

        Raises:
          UserError: it is one too many.
        """
        with self._lock:
            new = (shard, index) not in self._met
            self._met.add((shard, index))
            count = len(self._met)
        if self._limit == 0:
            raise error
        if count > self._limit:
            raise UserError(
                f"more damaged records than data.max_bad_records={self._limit}; the last: {error}"
            )
        if new:
            logging.warning(
                "Damaged record %d of %d that are tolerated, another stands in: %s",
                count, self._limit, error,
            )  # fmt: skip


class RecordSequence:
    """All records of some shards of one latent size, as one sequence."""

    def __init__(self, folder: epath.Path, shards: Sequence[ShardInfo], tolerance: Tolerance):
        self._shards = shards
        self._tolerance = tolerance
        self._ends = list(itertools.accumulate(shard.records for shard in shards))
        self._reader = functools.lru_cache(OPEN_SHARDS)(
            lambda number: ShardReader(folder, shards[number])
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def __repr__(self) -> str:
        return f"RecordSequence(latent_size={self._shards[0].latent_size}, records={len(self)})"

    def __getitem__(self, index: int) -> EditRecord:
        """A record; in place of a damaged one the next that is not.

        Raises:
          UserError: too many are damaged.
        """
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            number = bisect.bisect_right(self._ends, place)
            shard = self._shards[number]
            in_shard = place - self._ends[number] + shard.records
            try:
                return self._reader(number)[in_shard]
            except DamagedRecordError as e:
                self._tolerance.meet(shard.file, in_shard, e)
        raise UserError(f"all records of {self!r} are damaged; run launch.precompute again.")


def _assemble(
    config: DataConfig,
    dropout: float,
    text_length: int,
    seed: int,
    process_index: int,
    step: int,
    records: Sequence[EditRecord],
) -> dict[str, np.ndarray]:
    """Pads and stacks one process's records of a step; drops captions."""
    dice = random_stream(seed, "caption_dropout", step).random(config.batch_size)
    first = process_index * len(records)
    texts = [
        record.text if record.negative_text is None or die >= dropout else record.negative_text
        for record, die in zip(records, dice[first : first + len(records)], strict=True)
    ]
    padded = np.zeros((len(texts), text_length, texts[0].shape[-1]), jnp.bfloat16)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    return {
        "target": np.stack([record.target for record in records]),
        "source": np.stack([record.source for record in records]),
        "text": padded,
        "text_lengths": np.array([len(text) for text in texts], np.int32),
        "ids": np.array([record.id for record in records]),
    }
