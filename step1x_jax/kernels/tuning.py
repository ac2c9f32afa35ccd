"""Block sizes of the kernels: a table for what was looked at, and a rule for the rest.

`python -m launch.bench attention --tune` searches on the machine that it runs on and prints lines
for the table.
"""

from typing import NamedTuple

CHUNKS = (896, 768, 640, 512, 384, 256, 128)


class Blocks(NamedTuple):
    """Rows that a kernel works on at once.

    Attributes:
      forward: of queries, and of keys.
      backward: of queries, and of keys.
    """

    forward: tuple[int, int]
    backward: tuple[int, int]


# (kind of device, tokens). These come from the compiler's schedules (bundles of instructions in the
# inner loops), not from a clock. Kinds as JAX names them: v5p is "TPU v5", v5e "TPU v5 lite", v6e
# "TPU v6 lite". 1024 px is 8832 tokens, 8960 with padding: blocks that divide this in both passes
# pad only once.
TABLE: dict[tuple[str, int], Blocks] = {
    (kind, length): found
    for length in (8832, 8960)
    for kind, found in {
        "TPU v5": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v5 lite": Blocks(forward=(640, 640), backward=(640, 640)),
        "TPU v6 lite": Blocks(forward=(896, 896), backward=(896, 896)),
    }.items()
}


def chunk_size(length: int) -> int:
    """The chunk that wastes least; of those within 3 % of it the largest."""
    padded = {c: -(-length // c) * c for c in CHUNKS}
    least = min(padded.values())
    return max(c for c in CHUNKS if padded[c] <= 1.03 * least)


def blocks(device_kind: str, length: int, size: int) -> Blocks:
    """For `length` queries and `size` keys."""
    known = TABLE.get((device_kind, length)) if length == size else None
    both = chunk_size(length), chunk_size(size)
    return known or Blocks(forward=both, backward=both)


def padded_length(device_kind: str, length: int) -> int:
    """The tokens that the kernels work on where `length` are asked for."""
    return max(-(-length // n) * n for pair in blocks(device_kind, length, length) for n in pair)
