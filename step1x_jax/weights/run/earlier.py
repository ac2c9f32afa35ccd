"""Checkpoints of schemas 2 and 3 under the current names and shapes.

Until schema 3 queries, keys and values were one projection; heads and the vectors of a modulation
had axes of their own; and the halves of an adapter were attributes of a layer (R rank, C vectors):

| now | until schema 3 |
|---|---|
| attn.q.kernel (D, H K), attn.k..., attn.v... | attn.qkv.kernel (3, D, H, K) |
| attn.q.bias (H K), ... | attn.qkv.bias (3, H, K) |
| attn.q.adapter.up (R, H K), ... | attn.qkv.lora_up (R, 3, H, K) |
| attn.k.adapter.down (D, R) | attn.qkv.lora_down (D, R) |
| attn.proj.kernel (H K, D) | (H, K, D) |
| mod.kernel (D, C D) | (D, C, D) |
| mlp_in.adapter.up | mlp_in.lora_up |

The same holds for their moments and moving averages. Numbers are neither changed nor reordered:
each current array is an earlier one, or a third of it, in another shape.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from step1x_jax.errors import UserError
from step1x_jax.weights.run.fingerprints import ArrayInfos, Arrays

LAST_SCHEMA = 3  # the last one with these names
_FUSED = re.compile(r"\b(attn|connector\.blocks)\.([qkv])\.(kernel|bias|adapter\.up)$")
_SHARED = re.compile(r"\battn\.k\.adapter\.down$")  # shared by q, k and v (and mlp_in)


class Origin(NamedTuple):
    """The earlier array from which a current one is taken.

    Attributes:
      name: of the earlier array.
      third: index of the third that is taken; None: the whole array is taken.
      axis: of the thirds, negative.
    """

    name: str
    third: int | None = None
    axis: int = 0

    def take(self, x: Any, shape: Sequence[int]) -> Any:
        """Take a current array of `shape` from the earlier one (numpy or jax), or from a layer of
        it.
        """
        return (x if self.third is None else x.take(self.third, axis=self.axis)).reshape(shape)


def find_origin(name: str) -> Origin:
    """Return the earlier array from which the current array `name` is taken."""
    third, axis = None, 0
    if fused := _FUSED.search(name):
        third, axis = "qkv".index(fused[2]), -4 if fused[3] == "kernel" else -3
        name = name[: fused.start(2)] + "qkv" + name[fused.end(2) :]
    elif shared := _SHARED.search(name):
        name = name[: shared.start()] + "attn.qkv.adapter.down"
    return Origin(re.sub(r"adapter\.(down|up)$", r"lora_\1", name), third, axis)


def abstract_earlier(wanted: Arrays, saved: ArrayInfos) -> Arrays:
    """Return, as abstract arrays, the earlier arrays from which current ones are taken.

    Args:
      wanted: current abstract arrays, with dtypes and shardings.
      saved: the checkpoint's description of its arrays. An array whose shape cannot be an earlier
        one gets the current shape, so that comparing with `saved` reports it.

    Raises:
      UserError: moments of Adafactor are among them.
    """
    result: Arrays = {}
    for name, x in wanted.items():
        source = find_origin(name)
        if ".moments." in name:
            raise UserError(
                "the checkpoint is from an earlier version of step1x_jax, whose Adafactor moments"
                " cannot be used any more; continue with that version, or start a new run from"
                " its weights (training.start_from)."
            )
        shape = tuple(saved[source.name]["shape"]) if source.name in saved else x.shape
        groups = _group_axes(x.shape, shape, source)
        if groups is None:
            shape, sharding = x.shape, x.sharding
        else:
            sharding = _earlier_sharding(x.sharding, groups, source)
        result[source.name] = jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)
    return result


def _group_axes(
    shape: Sequence[int], earlier: Sequence[int], source: Origin
) -> list[list[int]] | None:
    """Group the sizes of earlier axes by the current axis into which they are merged.

    The axis of q, k and v is left out.

    Returns:
      The groups; None: the earlier shape does not fit.
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


def _earlier_sharding(sharding: Any, groups: Sequence[Sequence[int]], source: Origin) -> Any:
    """Return the sharding of an earlier array: split where the current one is, if the axis is
    divisible.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec: list[Any] = []
    entries = [*sharding.spec, *[None] * (len(groups) - len(sharding.spec))]
    for group, entry in zip(groups, entries, strict=True):
        axes = (entry,) if isinstance(entry, str) else (entry or ())
        devices = math.prod(sharding.mesh.shape[axis] for axis in axes)
        widest = group.index(max(group))
        split = group[widest] % devices == 0
        spec += [entry if split and i == widest else None for i in range(len(group))]
    if source.third is not None:
        spec.insert(len(spec) + 1 + source.axis, None)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def from_earlier(loaded: Arrays, wanted: Arrays) -> Arrays:
    """Return current arrays from earlier ones, which are freed one after another.

    Args:
      loaded: the arrays of `abstract_earlier`.
      wanted: current abstract arrays, with shardings.
    """
    result: Arrays = {}
    left = [find_origin(name).name for name in wanted]
    for name, x in wanted.items():
        source = find_origin(name)
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


def describe_earlier(infos: ArrayInfos, saved: ArrayInfos) -> ArrayInfos:
    """Return what an earlier checkpoint's description would say about current arrays.

    For q, k and v only the sum of their bits is known, the first number of a fingerprint. The other
    arrays have the same numbers in the same order, hence the same fingerprint.

    Args:
      infos: of current arrays; q, k and v only together.
      saved: the checkpoint's description, which gives the shapes.
    """
    result: ArrayInfos = {}
    for name, array in infos.items():
        source = find_origin(name)
        sums = array["fingerprint"]
        if source.third is not None:
            before = result[source.name]["fingerprint"][0] if source.name in result else 0
            sums = [(before + sums[0]) % 2**32]
        shape = saved[source.name]["shape"] if source.name in saved else array["shape"]
        result[source.name] = {"shape": shape, "dtype": array["dtype"], "fingerprint": sums}
    return result


def group_by_earlier_name(names: Iterable[str]) -> dict[str, list[str]]:
    """Group current names by the name of the earlier array."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find_origin(name).name, []).append(name)
    return groups
