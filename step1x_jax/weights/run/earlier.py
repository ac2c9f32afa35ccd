"""Checkpoints of schemas 2 and 3 under today's names and shapes.

Until schema 3 queries, keys and values were one projection, heads and the vectors of a modulation
had axes of their own, and the halves of an adapter were attributes of a layer (R rank, C vectors):

| today | until schema 3 |
|---|---|
| attn.q.kernel (D, H K), attn.k..., attn.v... | attn.qkv.kernel (3, D, H, K) |
| attn.q.bias (H K), ... | attn.qkv.bias (3, H, K) |
| attn.q.adapter.up (R, H K), ... | attn.qkv.lora_up (R, 3, H, K) |
| attn.k.adapter.down (D, R) | attn.qkv.lora_down (D, R) |
| attn.proj.kernel (H K, D) | (H, K, D) |
| mod.kernel (D, C D) | (D, C, D) |
| mlp_in.adapter.up | mlp_in.lora_up |

and so in the moments and the average of these. Numbers are neither changed nor reordered: each of
today's arrays is one of the earlier ones, or a third of it, in another shape.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from step1x_jax.errors import UserError
from step1x_jax.weights.run.fingerprints import About, Arrays

LAST = 3  # the last of these schemas
_FUSED = re.compile(r"\b(attn|connector\.blocks)\.([qkv])\.(kernel|bias|adapter\.up)$")
_SHARED = re.compile(r"\battn\.k\.adapter\.down$")  # by q, k and v (and mlp_in)


class Origin(NamedTuple):
    """The earlier array that one of today's is, or is a third of.

    Attributes:
      name: of it.
      third: which; None: it is all of it.
      axis: of the three, from the end.
    """

    name: str
    third: int | None = None
    axis: int = 0

    def take(self, x: Any, shape: Sequence[int]) -> Any:
        """Today's array of `shape` from the earlier one (of numpy or jax), or a layer of it."""
        return (x if self.third is None else x.take(self.third, axis=self.axis)).reshape(shape)


def source_of(name: str) -> Origin:
    """Where the array `name` was."""
    third, axis = None, 0
    if fused := _FUSED.search(name):
        third, axis = "qkv".index(fused[2]), -4 if fused[3] == "kernel" else -3
        name = name[: fused.start(2)] + "qkv" + name[fused.end(2) :]
    elif shared := _SHARED.search(name):
        name = name[: shared.start()] + "attn.qkv.adapter.down"
    return Origin(re.sub(r"adapter\.(down|up)$", r"lora_\1", name), third, axis)


def wanted_earlier(wanted: Arrays, saved: About) -> Arrays:
    """The arrays of a checkpoint that today's are made of, as abstract arrays.

    Args:
      wanted: abstract arrays of today, with their dtypes and shardings.
      saved: what the checkpoint says of its arrays; one whose axes are not those of an earlier one
        keeps the shape of today, so that whoever compares them with `saved` finds it.

    Raises:
      UserError: the moments of Adafactor are among them.
    """
    result: Arrays = {}
    for name, x in wanted.items():
        source = source_of(name)
        if ".moments." in name:
            raise UserError(
                "the checkpoint is of an earlier version of step1x_jax, and Adafactor's moments of"
                " then cannot be used any more; go on with that version, or start a new run from"
                " its weights (training.start_from)."
            )
        shape = tuple(saved[source.name]["shape"]) if source.name in saved else x.shape
        groups = _groups(x.shape, shape, source)
        if groups is None:
            shape, place = x.shape, x.sharding
        else:
            place = _spread(x.sharding, groups, source)
        result[source.name] = jax.ShapeDtypeStruct(shape, x.dtype, sharding=place)
    return result


def _groups(shape: Sequence[int], earlier: Sequence[int], source: Origin) -> list[list[int]] | None:
    """The sizes of the earlier axes that each of today's joins; None: it is no such array.

    That of q, k and v is left out.
    """
    sizes = list(earlier)
    if source.third is not None and (len(sizes) < -source.axis or sizes.pop(source.axis) != 3):
        return None
    groups: list[list[int]] = []
    for size in shape:
        group: list[int] = []
        while sizes and (not group or math.prod(group) < size):
            group.append(sizes.pop(0))
        if not group or math.prod(group) != size:
            return None
        groups.append(group)
    if math.prod(sizes) != 1:
        return None
    if sizes:  # heads of width 1
        groups[-1] += sizes
    return groups


def _spread(place: Any, groups: Sequence[Sequence[int]], source: Origin) -> Any:
    """The sharding of an earlier array that splits it where today's is split, if that divides."""
    if not isinstance(place, NamedSharding):
        return place
    spec: list[Any] = []
    entries = [*place.spec, *[None] * (len(groups) - len(place.spec))]
    for group, entry in zip(groups, entries, strict=True):
        axes = (entry,) if isinstance(entry, str) else (entry or ())
        devices = math.prod(place.mesh.shape[axis] for axis in axes)
        widest = group.index(max(group))
        split = group[widest] % devices == 0
        spec += [entry if split and i == widest else None for i in range(len(group))]
    if source.third is not None:
        spec.insert(len(spec) + 1 + source.axis, None)
    return NamedSharding(place.mesh, PartitionSpec(*spec))


def from_earlier(loaded: Arrays, wanted: Arrays) -> Arrays:
    """Today's arrays from earlier ones, which are given up one after another.

    Args:
      loaded: the arrays of `wanted_earlier`.
      wanted: abstract arrays of today, with their shardings.
    """
    result: Arrays = {}
    left = [source_of(name).name for name in wanted]
    for name, x in wanted.items():
        source = source_of(name)
        left.remove(source.name)
        array = loaded[source.name]
        if source.third is None and array.shape == x.shape:
            result[name] = loaded.pop(source.name)
            continue
        take = jax.jit(partial(source.take, shape=x.shape), out_shardings=x.sharding)
        result[name] = jax.block_until_ready(take(array))
        if source.name not in left:
            loaded.pop(source.name).delete()
    return result


def describe_earlier(about: About, saved: About) -> About:
    """What a checkpoint of then would say of today's arrays.

    Of q, k and v together only the sum of their bits is known, the first number of a fingerprint;
    the others are the same numbers in the same order, and have the same fingerprint.

    Args:
      about: of today's arrays; of q, k and v all three.
      saved: what the checkpoint says, for the shapes.
    """
    result: About = {}
    for name, array in about.items():
        source = source_of(name)
        sums = array["fingerprint"]
        if source.third is not None:
            before = result[source.name]["fingerprint"][0] if source.name in result else 0
            sums = [(before + sums[0]) % 2**32]
        shape = saved[source.name]["shape"] if source.name in saved else array["shape"]
        result[source.name] = {"shape": shape, "dtype": array["dtype"], "fingerprint": sums}
    return result


def group_names(names: Iterable[str]) -> dict[str, list[str]]:
    """Today's names by that of the earlier array."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(source_of(name).name, []).append(name)
    return groups
