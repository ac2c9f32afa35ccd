"""Batches for training. The batch of a step is a pure function of config, seed and step.

Every bucket is shuffled anew in each of its epochs and cut into global batches, of which a process
takes its slice; the buckets take turns by a plan that all processes share. Nothing is remembered
between steps, so that going on at a step costs nothing and the number of processes may change.

No edit is left out or comes twice in an epoch of its bucket: where the last batch of an epoch is
not full, the first edits of the next one fill it.
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
from step1x_jax.data.local_copy import on_local_disk
from step1x_jax.data.manifest import (
    LARGEST_WEIGHT,
    MANIFEST,
    REJECTED,
    Manifest,
    read_manifest,
    same_setting,
)
from step1x_jax.data.mixing import (
    BucketPlan,
    batch_multiples,
    drop_rate,
    mixture,
    pools,
    random_stream,
    turns,
)
from step1x_jax.data.records import DamagedRecordError, EditRecord
from step1x_jax.data.shards import ShardInfo, ShardReader, check_size, unreadable
from step1x_jax.errors import UserError, require
from step1x_jax.files import user_path

MOST_OPEN_SHARDS = 512  # of a process; never more than a quarter of the files that it may open


@dataclasses.dataclass
class DataConfig:
    """Which data and how it is read."""

    path: str = ""  # a folder that launch.precompute made, or several of them, joined by commas
    weights: tuple[float, ...] = ()  # of these in what is drawn; (): every edit equally often
    # Edits in a step of the largest pictures, over all processes. Of smaller ones it is the
    # multiple of this that has as many tokens, or somewhat fewer.
    batch_size: Annotated[int, Meta(le=1 << 20)] = 8
    caption_dropout: float = 0.1  # how often an edit is trained on the empty instruction instead
    max_bad_records: Annotated[int, Meta(le=1 << 32)] = (
        0  # damaged records for which others may stand in, in each process
    )
    threads: Annotated[int, Meta(le=1000)] = 2  # that read batches ahead, in each process

    def validate(self) -> None:
        """Raises UserError, naming the field, for impossible values."""
        require(self.batch_size > 0, "data.batch_size", self.batch_size, "use a positive number")
        weights, folders = self.weights, len(self.path.split(","))
        fine = not weights or len(weights) == folders
        require(fine, "data.weights", weights, f"data.path has {folders}: use one for each, or ()")
        fine = all(0 < weight <= LARGEST_WEIGHT for weight in weights)
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
    """Endless batches from a step on.

    Args:
      config: which data.
      text_length: T, to which texts are padded.
      seed: of the run.
      start_step: the step of the first batch.
      process_index: of this process.
      process_count: of all processes; each gets an equal share of a batch.

    Returns:
      An iterator over dicts of arrays, b edits each (batch_size / process_count, or a multiple
      where pictures are small), all of one latent size (h, w):
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
    folders, manifest = _find_records(config, text_length)
    multiples = batch_multiples(manifest, text_length)
    sizes = [config.batch_size * times for times in multiples]
    batches = []
    buckets = _open_buckets(config, folders, manifest, sizes, seed)
    for bucket, size in zip(buckets, sizes, strict=True):
        shares = bucket.batch(size // process_count, drop_remainder=True, batch_fn=list)
        batches.append(shares[process_index::process_count])
    dropout = drop_rate(manifest, config.caption_dropout)
    process = process_index, process_count
    assemble = functools.partial(_assemble, dropout, text_length, seed, process)
    plan = BucketPlan(turns(manifest, multiples), seed)
    steps = grain.MapDataset.select_from_datasets(batches, plan).map_with_index(assemble)
    options = grain.ReadOptions(config.threads, prefetch_buffer_size=max(config.threads, 1))
    return iter(steps[start_step:].to_iter_dataset(options))


def data_folders(config: DataConfig) -> list[epath.Path]:
    """The folders of the records.

    Raises:
      UserError: none is given.
    """
    if not config.path:
        raise UserError("data.path is not set; give the folder that launch.precompute made.")
    return [epath.Path(user_path(path.strip())) for path in config.path.split(",")]


def _find_records(config: DataConfig, text_length: int) -> tuple[list[epath.Path], Manifest]:
    """What there is, after a look at whether it is all there and fits.

    Returns:
      For each source of the manifest the folder of its shards, on a local or mounted disk; and the
      manifest, of all data sets together.
    """
    given = data_folders(config)
    manifests = [_read_manifest(folder, text_length) for folder in given]
    _check_made_alike(given, manifests)
    folders = []
    for folder, manifest in zip(given, manifests, strict=True):
        here = on_local_disk(folder, manifest)
        for shard in manifest.shards:
            check_size(here / shard.file, shard)
        folders += [here] * len(manifest.sources)
    return folders, mixture(manifests, config.weights)


def _check_made_alike(folders: Sequence[epath.Path], manifests: Sequence[Manifest]) -> None:
    """Raises UserError if data sets to be mixed are of different models, or read differently."""
    settings = [one.settings | stored_reading(one.settings) for one in manifests]
    first = settings[0]
    for folder, made in zip(folders, settings, strict=True):
        for name in ("encoder", "autoencoder", *READING):
            there = made.get(name, first.get(name))
            if not same_setting(name, there, first.get(name, there)):
                raise UserError(
                    f"{folder} was made with {name}={there}, {folders[0]} with {first[name]}: what"
                    " is mixed has to be made alike; make one of them again."
                )


def _read_manifest(folder: epath.Path, text_length: int) -> Manifest:
    """The manifest, after a look at whether it fits."""
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
    """The records of each bucket, endless, each pool of it in an order of its own.

    Args:
      config: of the data.
      folders: of the manifest's sources.
      manifest: what there is.
      sizes: of the buckets' batches, for a warning.
      seed: of the run.
    """
    tolerance = Tolerance(config.max_bad_records)
    datasets, buckets = [], pools(manifest)
    readers = OpenShards(folders, manifest.shards)
    for number, bucket in enumerate(buckets):
        opened = [RecordSequence(readers, pool.shards, tolerance) for pool in bucket]
        endless = [
            grain.MapDataset.source(records)
            .shuffle(int(random_stream(seed, "shuffle", number + i * len(buckets)).integers(2**32)))
            .repeat()
            for i, records in enumerate(opened)
        ]
        weights = [pool.share for pool in bucket]
        datasets.append(endless[0] if len(endless) == 1 else grain.MapDataset.mix(endless, weights))
    _warn_of_small_buckets(config.path, manifest, sizes)
    return datasets


def _warn_of_small_buckets(path: str, manifest: Manifest, sizes: Sequence[int]) -> None:
    """Names the shapes that have fewer edits than their batch."""
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
    """Held-out edits are opened at every evaluation: once is enough."""
    logging.warning("%s", message)


class OpenShards:
    """The readers of the latest shards, so many that files are left to others; for threads."""

    def __init__(self, folders: Sequence[epath.Path], shards: Sequence[ShardInfo]):
        """Opens nothing yet.

        Args:
          folders: of the sources that the shards are from.
          shards: all of them.
        """
        self._folders = folders
        self._shards = {(shard.source, shard.file): shard for shard in shards}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = MOST_OPEN_SHARDS if soft == resource.RLIM_INFINITY else max(1, soft // 4)
        self._reader = functools.lru_cache(min(few, MOST_OPEN_SHARDS))(self._open)

    def __call__(self, shard: ShardInfo) -> ShardReader:
        """The reader of a shard.

        Raises:
          UserError: it is missing, damaged or cannot be read.
        """
        name = shard.source, shard.file
        try:
            return self._reader(name)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise unreadable(self._folders[shard.source] / shard.file, e) from e
        self._reader.cache_clear()  # other parts of the program need more files than expected
        try:
            return self._reader(name)
        except OSError as e:
            raise unreadable(self._folders[shard.source] / shard.file, e) from e

    def _open(self, name: tuple[int, str]) -> ShardReader:
        shard = self._shards[name]
        return ShardReader(self._folders[shard.source], shard)


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

    def __init__(self, readers: OpenShards, shards: Sequence[ShardInfo], tolerance: Tolerance):
        """Opens nothing yet.

        Args:
          readers: of all shards.
          shards: in order.
          tolerance: of damaged records.
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
                return self._readers(shard)[in_shard]
            except DamagedRecordError as e:
                self._tolerance.meet(shard.file, in_shard, e)
        raise UserError(
            f"all records of {self!r} are damaged; delete their shards and run launch.precompute"
            " again."
        )


def _assemble(
    dropout: float,
    text_length: int,
    seed: int,
    process: tuple[int, int],
    step: int,
    records: Sequence[EditRecord],
) -> dict[str, np.ndarray]:
    """Pads and stacks the records of a step of one process of so many; drops captions."""
    index, count = process
    dice = random_stream(seed, "caption_dropout", step).random(count * len(records))
    first = index * len(records)
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
