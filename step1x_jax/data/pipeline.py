"""Batches for training. The batch of a step is a pure function of config, seed and step.

Every bucket is reshuffled in each of its epochs and split into global batches, of which each
process takes its slice; the buckets take turns by a plan that all processes share. There is no
state between steps, so resuming at a step costs nothing and the number of processes may change.

Every edit occurs exactly once in an epoch of its bucket: an incomplete last batch of an epoch is
filled with the first edits of the next epoch.
"""

import bisect
import dataclasses
import errno
import functools
import itertools
import resource
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated

import grain
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from msgspec import Meta

from step1x_jax.conditioning.encoder import READING, stored_reading
from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.data.local_copy import copy_to_local_disk
from step1x_jax.data.manifest import (
    MANIFEST,
    MAX_WEIGHT,
    REJECTED,
    Manifest,
    read_manifest,
    same_setting,
)
from step1x_jax.data.mixing import (
    BucketPlan,
    compute_batch_multiples,
    compute_drop_rate,
    count_turns,
    make_rng,
    mix_manifests,
    split_pools,
)
from step1x_jax.data.records import DamagedRecordError, EditRecord
from step1x_jax.data.shards import ShardInfo, ShardReader, check_size, unreadable_error
from step1x_jax.errors import UserError, require
from step1x_jax.files import user_path
from step1x_jax.models.text_tokens import text_bucket

MAX_OPEN_SHARDS = 512  # per process, and at most a quarter of its limit of open files


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data is read, and how."""

    path: str = ""  # a folder made by launch.precompute, or several, separated by commas
    weights: tuple[float, ...] = ()  # their shares of the draws; (): every edit equally often
    # Edits per step over all processes, for the largest pictures. For smaller pictures, the largest
    # multiple of it that has no more tokens.
    batch_size: Annotated[int, Meta(le=1 << 20)] = 8
    caption_dropout: float = 0.1  # probability that an edit is trained on the empty instruction
    max_bad_records: Annotated[int, Meta(le=1 << 32)] = (
        0  # damaged records that may be replaced by others, per process
    )
    threads: Annotated[int, Meta(le=1000)] = 2  # number of prefetching threads, per process

    def validate(self) -> None:
        """Raise UserError, naming the field, for values that cannot be used."""
        require(self.batch_size > 0, "data.batch_size", self.batch_size, "use a positive number")
        weights, folders = self.weights, len(self.path.split(","))
        fine = not weights or len(weights) == folders
        require(fine, "data.weights", weights, f"data.path has {folders}: use one for each, or ()")
        fine = all(0 < weight <= MAX_WEIGHT for weight in weights)
        require(fine, "data.weights", weights, "use positive numbers")
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
    """Make an endless iterator over batches.

    Args:
      config: which data is read, and how.
      text_length: that of the model, in tokens.
      seed: seed of the run.
      start_step: step of the first batch.
      process_index: index of this process.
      process_count: number of processes; each gets an equal share of a batch.

    Returns:
      An iterator over dicts of arrays of b edits (batch_size / process_count, or a multiple of it
      if the pictures are small), all of one latent size (h, w):
        target, source: (b, h, w, 16) bfloat16 latents;
        text: (b, T, C) bfloat16 embeddings, zero past their lengths; T is the same for all batches
          of a data set: `text_bucket` of its longest text;
        text_lengths: (b,) int32;
        ids: (b,) strings, the ids of the records, for messages.

    Raises:
      UserError: the data set is incomplete or damaged (a damaged record is raised by the iterator),
        or it does not fit the config.
    """
    config.validate()
    require(
        config.batch_size % process_count == 0,
        "data.batch_size", config.batch_size, f"use a multiple of the {process_count} processes",
    )  # fmt: skip
    folders, manifest, longest_text = _find_records(config, text_length)
    multiples = compute_batch_multiples(manifest, text_length)
    padded_length = text_bucket(longest_text, text_length)
    logging.info(
        "Texts have up to %d of %d tokens: %d are computed.",
        longest_text, text_length, padded_length,
    )  # fmt: skip
    sizes = [config.batch_size * times for times in multiples]
    batches = []
    buckets = _open_buckets(config, folders, manifest, sizes, seed)
    for bucket, size in zip(buckets, sizes, strict=True):
        shares = bucket.batch(size // process_count, drop_remainder=True, batch_fn=list)
        batches.append(shares[process_index::process_count])
    dropout = compute_drop_rate(manifest, config.caption_dropout)
    process = process_index, process_count
    assemble = functools.partial(_assemble, dropout, padded_length, seed, process)
    plan = BucketPlan(count_turns(manifest, multiples), seed)
    steps = grain.MapDataset.select_from_datasets(batches, plan).map_with_index(assemble)
    options = grain.ReadOptions(config.threads, prefetch_buffer_size=max(config.threads, 1))
    return iter(steps[start_step:].to_iter_dataset(options))


def data_folders(config: DataConfig) -> list[epath.Path]:
    """Return the folders of data.path.

    Raises:
      UserError: data.path is empty.
    """
    if not config.path:
        raise UserError("data.path is not set; give the folder that launch.precompute made.")
    return [epath.Path(user_path(path.strip())) for path in config.path.split(",")]


def _find_records(config: DataConfig, text_length: int) -> tuple[list[epath.Path], Manifest, int]:
    """Read the manifests, check that all shards exist and that the data fits the config.

    Returns:
      For each source of the manifest the folder of its shards, on a local or mounted disk; the
      manifest of all data sets combined; and the number of tokens of the longest text.
    """
    given = data_folders(config)
    manifests = [_read_manifest(folder, text_length) for folder in given]
    _check_made_alike(given, manifests)
    folders = []
    for folder, manifest in zip(given, manifests, strict=True):
        here = copy_to_local_disk(folder, manifest)
        for shard in manifest.shards:
            check_size(here / shard.file, shard)
        folders += [here] * len(manifest.sources)
    longest_text = max(shard.longest_text for one in manifests for shard in one.shards)
    return folders, mix_manifests(manifests, config.weights), longest_text


def _check_made_alike(folders: Sequence[epath.Path], manifests: Sequence[Manifest]) -> None:
    """Raise UserError if the data sets were made with different models or ways of reading."""
    settings = [one.settings | stored_reading(one.settings) for one in manifests]
    first = settings[0]
    for folder, made in zip(folders, settings, strict=True):
        for name in ("encoder", "autoencoder", *READING):
            value = made.get(name, first.get(name))
            if not same_setting(name, value, first.get(name, value)):
                raise UserError(
                    f"{folder} was made with {name}={value}, {folders[0]} with {first[name]}: mixed"
                    " data sets must be made with the same settings; make one of them again."
                )


def _read_manifest(folder: epath.Path, text_length: int) -> Manifest:
    """Read a manifest and check that it has records whose texts fit."""
    manifest = read_manifest(folder / MANIFEST)
    if not manifest.records:
        raise UserError(
            f"{folder} holds no records, its {REJECTED} says why; run launch.precompute on other"
            " edits."
        )
    for shard in manifest.shards:
        if shard.longest_text > text_length:
            raise UserError(
                f"{folder} has texts of {shard.longest_text} tokens, model.text_length is"
                f" {text_length}; raise it, or run launch.precompute with fewer --max_pixels."
            )
    return manifest


def _open_buckets(
    config: DataConfig,
    folders: Sequence[epath.Path],
    manifest: Manifest,
    sizes: Sequence[int],
    seed: int,
) -> list[grain.MapDataset]:
    """Open the records of each bucket as endless data sets; each pool is shuffled independently.

    Args:
      config: config of the data.
      folders: folder of each source of the manifest.
      manifest: manifest of all data sets combined.
      sizes: batch size of each bucket, for a warning.
      seed: seed of the run.
    """
    tolerance = DamageTolerance(config.max_bad_records)
    datasets, buckets = [], split_pools(manifest)
    readers = OpenShards(folders, manifest.shards)
    for number, bucket in enumerate(buckets):
        opened = [RecordSequence(readers, pool.shards, tolerance) for pool in bucket]
        endless = [
            grain.MapDataset.source(records)
            .shuffle(int(make_rng(seed, "shuffle", number + i * len(buckets)).integers(2**32)))
            .repeat()
            for i, records in enumerate(opened)
        ]
        weights = [pool.share for pool in bucket]
        datasets.append(endless[0] if len(endless) == 1 else grain.MapDataset.mix(endless, weights))
    _warn_of_small_buckets(config.path, manifest, sizes)
    return datasets


def _warn_of_small_buckets(path: str, manifest: Manifest, sizes: Sequence[int]) -> None:
    """Warn of shapes that have fewer edits than their batch size."""
    few = []
    for ((h, w), shards), size in zip(manifest.buckets.items(), sizes, strict=True):
        records = sum(shard.records for shard in shards)
        if records < size:
            shape = f"{w * PIXELS_PER_LATENT}x{h * PIXELS_PER_LATENT}"
            few.append(f"{shape} ({records} of {size} edits)")
    if few:
        _warn_once(
            f"{path}: edits repeat in a batch of the shapes that do not fill one: {', '.join(few)}."
        )


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once: held-out edits are opened at every evaluation."""
    logging.warning("%s", message)


class OpenShards:
    """Caches the readers of the latest shards within the limit of open files; thread-safe."""

    def __init__(self, folders: Sequence[epath.Path], shards: Sequence[ShardInfo]):
        """Store the arguments; shards are opened on first use.

        Args:
          folders: folder of each source.
          shards: all shards.
        """
        self._folders = folders
        self._shards = {(shard.source, shard.file): shard for shard in shards}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = MAX_OPEN_SHARDS if soft == resource.RLIM_INFINITY else max(1, soft // 4)
        self._reader = functools.lru_cache(min(limit, MAX_OPEN_SHARDS))(self._open)

    def __call__(self, shard: ShardInfo) -> ShardReader:
        """Return the reader of a shard.

        Raises:
          UserError: the shard is missing, damaged or cannot be read.
        """
        name = shard.source, shard.file
        try:
            return self._reader(name)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise unreadable_error(self._folders[shard.source] / shard.file, e) from e
        self._reader.cache_clear()  # other code has more files open than expected
        try:
            return self._reader(name)
        except OSError as e:
            raise unreadable_error(self._folders[shard.source] / shard.file, e) from e

    def _open(self, name: tuple[int, str]) -> ShardReader:
        shard = self._shards[name]
        return ShardReader(self._folders[shard.source], shard)


class DamageTolerance:
    """Counts distinct damaged records and raises when there are too many; thread-safe."""

    def __init__(self, limit: int):
        self._limit = limit
        self._met: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def count(self, shard: str, index: int, error: DamagedRecordError) -> None:
        """Count a damaged record.

        Raises:
          UserError: the limit is exceeded.
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
                "Damaged record %d of at most %d, replaced by another: %s",
                count, self._limit, error,
            )  # fmt: skip


class RecordSequence:
    """The records of several shards of one latent size, as one sequence."""

    def __init__(
        self, readers: OpenShards, shards: Sequence[ShardInfo], tolerance: DamageTolerance
    ):
        """Store the arguments; opens no shard.

        Args:
          readers: readers of all shards.
          shards: the shards of the sequence, in order.
          tolerance: counts damaged records.
        """
        self._shards = shards
        self._tolerance = tolerance
        self._readers = readers
        self._ends = list(itertools.accumulate(shard.records for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def __repr__(self) -> str:
        return f"RecordSequence(latent_size={self._shards[0].latent_size}, records={len(self)})"

    def __getitem__(self, index: int) -> EditRecord:
        """Return a record; a damaged one is replaced by the next intact one.

        Raises:
          UserError: too many records are damaged.
        """
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            number = bisect.bisect_right(self._ends, position)
            shard = self._shards[number]
            in_shard = position - self._ends[number] + shard.records
            try:
                return self._readers(shard)[in_shard]
            except DamagedRecordError as e:
                self._tolerance.count(shard.file, in_shard, e)
        raise UserError(
            f"all records of {self!r} are damaged; delete their shards and run launch.precompute"
            " again."
        )


def _assemble(
    dropout: float,
    padded_length: int,
    seed: int,
    process: tuple[int, int],
    step: int,
    records: Sequence[EditRecord],
) -> dict[str, np.ndarray]:
    """Pad and stack one process's records of a step, with caption dropout.

    Args:
      dropout: probability of the negative embedding, for records that have one.
      padded_length: T, the length to which texts are padded.
      seed: seed of the run.
      process: index of the process, and number of processes.
      step: the step.
      records: the b records of this process.

    Returns:
      The batch, see `make_batches`.
    """
    index, count = process
    draws = make_rng(seed, "caption_dropout", step).random(count * len(records))
    first = index * len(records)
    texts = [
        record.text if record.negative_text is None or draw >= dropout else record.negative_text
        for record, draw in zip(records, draws[first : first + len(records)], strict=True)
    ]
    padded = np.zeros((len(texts), padded_length, texts[0].shape[-1]), jnp.bfloat16)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    return {
        "target": np.stack([record.target for record in records]),
        "source": np.stack([record.source for record in records]),
        "text": padded,
        "text_lengths": np.array([len(text) for text in texts], np.int32),
        "ids": np.array([record.id for record in records]),
    }
