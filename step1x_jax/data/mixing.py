"""How often each bucket and each source comes: the part of the input that is arithmetic.

Without weights every record comes equally often. With weights, a source gets its share of all draws
whatever its size: each of its n records comes at the rate weight / n. Several data sets are mixed
as if they were one with the sources of all.
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

ROUND = 100_000  # turns in a round where there are weights: shares are right to 1 part in it


@dataclasses.dataclass
class ShardPool:
    """Shards of one latent size whose records come at the same rate.

    Attributes:
      shards: in order.
      share: of all draws.
    """

    shards: list[ShardInfo]
    share: float


def mixture(manifests: Sequence[Manifest], weights: Sequence[float] = ()) -> Manifest:
    """Several data sets as one.

    Args:
      manifests: of each.
      weights: of each in what is drawn; none: each has the weight of its records.

    Returns:
      All shards and sources, in order; one alone as it is. The sources have weights if data sets or
      sources had any; those of a data set keep their shares among each other.
    """
    if len(manifests) == 1:
        return manifests[0]
    weighted = bool(weights) or any(one.sources[0].weight is not None for one in manifests)
    shards: list[ShardInfo] = []
    sources: list[SourceInfo] = []
    for i, manifest in enumerate(manifests):
        whole = weights[i] if weights else manifest.records
        rates, shares = _rates(manifest), [0.0] * len(manifest.sources)
        for shard in manifest.shards:
            shares[shard.source] += rates[shard.source] * shard.records
            shards.append(dataclasses.replace(shard, source=len(sources) + shard.source))
        sources += [
            SourceInfo(source.name, whole * share if weighted else None)
            for source, share in zip(manifest.sources, shares, strict=True)
        ]
    return Manifest({}, shards, sources=sources)


def pools(manifest: Manifest) -> list[list[ShardPool]]:
    """The pools of every bucket: one, or with weights one for each source that it has."""
    weighted = manifest.sources[0].weight is not None
    rates = _rates(manifest)
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


def _rates(manifest: Manifest) -> list[float]:
    """Draws of each record of a source, as a part of all draws."""
    records = [0] * len(manifest.sources)
    for shard in manifest.shards:
        records[shard.source] += shard.records
    sizes = zip(manifest.sources, records, strict=True)
    weights = [(n if one.weight is None else one.weight) * (n > 0) for one, n in sizes]
    return [w / sum(weights) / max(n, 1) for w, n in zip(weights, records, strict=True)]


def batch_multiples(manifest: Manifest, text_length: int) -> list[int]:
    """How many times data.batch_size a batch of every bucket holds.

    As often as it goes into the tokens of the largest pictures' batch, so that a step of small
    pictures takes no more memory than one of large ones, and not much less time.

    Args:
      manifest: of the data.
      text_length: tokens of the text.
    """
    tokens = [2 * h * w // PATCH**2 + text_length for h, w in manifest.buckets]
    return [max(tokens) // one for one in tokens]


def turns(manifest: Manifest, multiples: Sequence[int]) -> list[int]:
    """Of every bucket in a round of BucketPlan: the fewer, the more a batch of it holds."""
    buckets = pools(manifest)
    if manifest.sources[0].weight is None:
        common = math.lcm(*multiples)
        return [
            sum(shard.records for pool in bucket for shard in pool.shards) * common // times
            for bucket, times in zip(buckets, multiples, strict=True)
        ]
    shares = [sum(pool.share for pool in bucket) for bucket in buckets]
    return [
        max(1, round(ROUND * share / times)) for share, times in zip(shares, multiples, strict=True)
    ]


def drop_rate(manifest: Manifest, caption_dropout: float) -> float:
    """How often a record that has a negative embedding is to be trained on it.

    Args:
      manifest: of the data.
      caption_dropout: how often records are to be, over all.

    Raises:
      UserError: too few have one.
    """
    if caption_dropout == 0:
        return 0.0
    rates = _rates(manifest)
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


def random_stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Random numbers of a named use, the same wherever and whenever they are drawn."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed % 2**64, *numbers])


class BucketPlan:
    """Which bucket a step takes, and how many batches that bucket has given before.

    Steps come in rounds; in each one a bucket has its turns (divided by what is common to all), in
    random order.
    """

    def __init__(self, turns: Sequence[int], seed: int):
        """Plans for buckets with these turns, see `turns`."""
        self._turns = np.array(turns) // math.gcd(*turns)
        self._round = functools.lru_cache(maxsize=2)(functools.partial(self._make_round, seed))

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Bucket and number of its batch for a step."""
        number, place = divmod(step, int(self._turns.sum()))
        buckets, earlier = self._round(number)
        bucket = int(buckets[place])
        return bucket, number * int(self._turns[bucket]) + int(earlier[place])

    def _make_round(self, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Bucket per step of a round, and how often it came earlier in the round."""
        turns = self._turns
        buckets = np.repeat(np.arange(len(turns)), turns)
        buckets = random_stream(seed, "buckets", number).permutation(buckets)
        earlier = np.empty_like(buckets)
        for bucket, count in enumerate(turns):
            earlier[buckets == bucket] = np.arange(count)
        return buckets, earlier
