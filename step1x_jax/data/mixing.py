"""How often each bucket and each source is drawn: the arithmetic of the input pipeline.

Without weights every record is drawn equally often. With weights, a source gets its share of all
draws whatever its size: each of its n records is drawn at the rate weight / n. Several data sets
are mixed as one data set with the sources of all.
"""

import dataclasses
import functools
import math
import sys
import zlib
from collections.abc import Sequence

import numpy as np

from step1x_jax.data.manifest import Manifest, SourceInfo
from step1x_jax.data.shards import ShardInfo
from step1x_jax.errors import require
from step1x_jax.models.embeddings import PATCH

TURNS_PER_ROUND = 100_000  # with weights: shares are rounded to 1 / TURNS_PER_ROUND


@dataclasses.dataclass
class ShardPool:
    """Shards of one latent size whose records are drawn at the same rate.

    Attributes:
      shards: the shards, in order.
      share: fraction of all draws that come from this pool.
    """

    shards: list[ShardInfo]
    share: float


def mix_manifests(manifests: Sequence[Manifest], weights: Sequence[float] = ()) -> Manifest:
    """Combine the manifests of several data sets into one.

    Args:
      manifests: manifest of each data set.
      weights: weight of each data set in the draws; (): proportional to its number of records.

    Returns:
      A manifest with all shards and sources, in order; a single manifest is returned unchanged. The
      sources have weights if `weights` or a manifest gives any; the sources of one data set keep
      their relative shares.
    """
    if len(manifests) == 1:
        return manifests[0]
    weighted = bool(weights) or any(one.sources[0].weight is not None for one in manifests)
    shards: list[ShardInfo] = []
    sources: list[SourceInfo] = []
    for i, manifest in enumerate(manifests):
        total = weights[i] if weights else manifest.records
        rates, shares = _compute_rates(manifest), [0.0] * len(manifest.sources)
        for shard in manifest.shards:
            shares[shard.source] += rates[shard.source] * shard.records
            shards.append(dataclasses.replace(shard, source=len(sources) + shard.source))
        sources += [
            SourceInfo(source.name, total * share if weighted else None)
            for source, share in zip(manifest.sources, shares, strict=True)
        ]
    return Manifest({}, shards, sources=sources)


def split_pools(manifest: Manifest) -> list[list[ShardPool]]:
    """Return the pools of every bucket: one, or with weights one for each source in it."""
    weighted = manifest.sources[0].weight is not None
    rates = _compute_rates(manifest)
    buckets = []
    for shards in manifest.buckets.values():
        groups: dict[int, list[ShardInfo]] = {}
        for shard in shards:
            groups.setdefault(shard.source if weighted else 0, []).append(shard)
        buckets.append(
            [
                ShardPool(group, sum(rates[shard.source] * shard.records for shard in group))
                for group in groups.values()
            ]
        )
    return buckets


def _compute_rates(manifest: Manifest) -> list[float]:
    """Return, for each source, the fraction of all draws that each of its records gets."""
    records = [0] * len(manifest.sources)
    for shard in manifest.shards:
        records[shard.source] += shard.records
    sizes = zip(manifest.sources, records, strict=True)
    weights = [(n if one.weight is None else one.weight) * (n > 0) for one, n in sizes]
    return [w / sum(weights) / max(n, 1) for w, n in zip(weights, records, strict=True)]


def compute_batch_multiples(manifest: Manifest, text_length: int) -> list[int]:
    """Compute the batch size of every bucket, as a multiple of data.batch_size.

    It is the largest multiple whose tokens do not exceed those of a batch of the largest pictures,
    so that a step of small pictures needs no more memory than one of large pictures, and about the
    same time.

    Args:
      manifest: manifest of the data.
      text_length: number of text tokens of an example.

    Returns:
      One factor for each of `manifest.buckets`.
    """
    tokens = [2 * h * w // PATCH**2 + text_length for h, w in manifest.buckets]
    return [max(tokens) // one for one in tokens]


def count_turns(manifest: Manifest, multiples: Sequence[int]) -> list[int]:
    """Count the batches of every bucket in a round of BucketPlan.

    Args:
      manifest: manifest of the data.
      multiples: batch sizes of the buckets, see `compute_batch_multiples`. A bucket with larger
        batches has fewer turns.
    """
    buckets = split_pools(manifest)
    if manifest.sources[0].weight is None:
        common = math.lcm(*multiples)
        return [
            sum(shard.records for pool in bucket for shard in pool.shards) * common // times
            for bucket, times in zip(buckets, multiples, strict=True)
        ]
    shares = [sum(pool.share for pool in bucket) for bucket in buckets]
    return [
        max(1, round(TURNS_PER_ROUND * share / times))
        for share, times in zip(shares, multiples, strict=True)
    ]


def compute_drop_rate(manifest: Manifest, caption_dropout: float) -> float:
    """Compute the dropout probability of records that have a negative embedding.

    Args:
      manifest: manifest of the data.
      caption_dropout: dropout probability over all records, 0 to 1.

    Returns:
      The probability, 0 to 1, for which the rate over all records is `caption_dropout`.

    Raises:
      UserError: too few records have a negative embedding.
    """
    if caption_dropout == 0:
        return 0.0
    rates = _compute_rates(manifest)
    fraction = sum(rates[shard.source] * shard.negatives for shard in manifest.shards)
    if math.isclose(fraction, 1):
        return caption_dropout
    require(
        caption_dropout <= fraction,
        "data.caption_dropout",
        caption_dropout,
        f"only {fraction:.1%} of the records have a negative embedding: use at most that, or make"
        " the data with more (launch.precompute --negatives)",
    )
    return caption_dropout / fraction


def make_rng(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Return the generator of a named use; a pure function of the arguments."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed % 2**64, *numbers])


class BucketPlan:
    """Maps a step to its bucket and the number of earlier batches of that bucket.

    Steps are grouped into rounds. In each round every bucket has its turns (divided by their
    greatest common divisor), in random order.
    """

    def __init__(self, turns: Sequence[int], seed: int):
        """Make the plan for the turns of `count_turns`."""
        self._turns = np.array(turns) // math.gcd(*turns)
        self._round = functools.lru_cache(maxsize=2)(functools.partial(self._make_round, seed))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Return the bucket of a step, and the index of its batch among the bucket's batches."""
        number, place = divmod(step, int(self._turns.sum()))
        buckets, earlier = self._round(number)
        bucket = int(buckets[place])
        return bucket, number * int(self._turns[bucket]) + int(earlier[place])

    def _make_round(self, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the bucket of each step of a round, and its earlier turns in the round."""
        turns = self._turns
        buckets = np.repeat(np.arange(len(turns)), turns)
        buckets = make_rng(seed, "buckets", number).permutation(buckets)
        earlier = np.empty_like(buckets)
        for bucket, count in enumerate(turns):
            earlier[buckets == bucket] = np.arange(count)
        return buckets, earlier
