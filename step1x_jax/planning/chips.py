"""The TPUs that can be planned for: what their makers say of them, and how they are joined."""

import dataclasses
import math
import re

from step1x_jax.errors import UserError
from step1x_jax.parallel.devices import HBM, PEAK


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. Cores that JAX shows as one device count together.

    Attributes:
      clock: Hz.
      kind: as JAX names it.
      hbm_bandwidth: bytes a second.
      ici_bandwidth: bytes a second that all its links together bring in: 90 % of what is published.
      ici_links: how many these are.
      closed_from: a torus dimension of this size or more is closed to a ring.
      cores: that share out the heads of a kernel.
      mxu: width of a matmul unit.
    """

    name: str
    kind: str
    clock: float
    hbm_bandwidth: float
    ici_bandwidth: float
    ici_links: int
    closed_from: int
    cores: int
    mxu: int

    @property
    def peak(self) -> float:
        """Operations a second on bfloat16: operations a cycle at the clock."""
        return PEAK[self.kind]

    @property
    def hbm_bytes(self) -> float:
        """What a program may use."""
        return HBM[self.kind]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5p", "TPU v5", 1.75e9, 2765e9, 540e9, 6, 4, 2, 128),
        Chip("v5e", "TPU v5 lite", 1.5e9, 819e9, 180e9, 4, 16, 1, 128),
        Chip("v6e", "TPU v6 lite", 1.75e9, 1640e9, 360e9, 4, 16, 1, 256),
    )
}
# Bytes a second that a chip's share of the data-centre network brings in, between slices: of 200
# Gbit/s for a host of four chips. An assumption: it differs from place to place.
DCN_BANDWIDTH = 6.25e9


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, as "v5p:4x4x4" names it, or several of them."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """How many there are in all slices."""
        return math.prod(self.sizes) * self.slices

    def bandwidth(self, extent: tuple[int, ...]) -> float:
        """Bytes a second that arrive at a chip from a group of this extent on the torus.

        Two links along a ring, one along a line; a dimension that the group does not span gives
        none.
        """
        links = 0
        for reach, size in zip(extent, self.sizes, strict=True):
            if reach > 1:
                links += 2 if reach == size and size >= self.chip.closed_from else 1
        return self.chip.ici_bandwidth * max(links, 1) / self.chip.ici_links


def parse_topology(name: str, slices: int = 1) -> Topology:
    """A topology by its name.

    Raises:
      UserError: for a name that says no chip and sizes, or a chip that is not in CHIPS.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not match or match[1] not in CHIPS:
        raise UserError(
            f"--topology={name} is none that can be planned for; name a chip"
            f" ({', '.join(CHIPS)}) and its slice, as in v5p:4x4x4 or v6e:16x16."
        )
    chip, sizes = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
    wanted = chip.ici_links // 2
    if len(sizes) != wanted:
        raise UserError(f"--topology={name}: a {chip.name} slice has {wanted} sizes.")
    return Topology(name, chip, sizes, slices)
