"""The supported TPUs: published figures and the topology of their links."""

import dataclasses
import math
import re

from step1x_jax.errors import UserError
from step1x_jax.parallel.devices import HBM, PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip. Cores that JAX shows as one device count as one chip.

    Attributes:
      name: "v5p" and so on.
      kind: JAX's device_kind.
      clock: Hz.
      hbm_bandwidth: bytes per second.
      ici_bandwidth: bytes per second received over all links: 90 % of the published figure.
      ici_links: number of links.
      wraps_from: torus dimensions of this size or more are rings (have wraparound links).
      cores: number of cores, over which the heads of a kernel are divided.
      mxu_width: width of a matrix unit (MXU).
    """

    name: str
    kind: str
    clock: float
    hbm_bandwidth: float
    ici_bandwidth: float
    ici_links: int
    wraps_from: int
    cores: int
    mxu_width: int

    @property
    def peak(self) -> float:
        """Peak FLOP/s in bfloat16."""
        return PEAK_FLOPS[self.kind]

    @property
    def hbm_bytes(self) -> float:
        """Bytes of HBM that a program may use."""
        return HBM[self.kind]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5p", "TPU v5", 1.75e9, 2765e9, 540e9, 6, 4, 2, 128),
        Chip("v5e", "TPU v5 lite", 1.5e9, 819e9, 180e9, 4, 16, 1, 128),
        Chip("v6e", "TPU v6 lite", 1.75e9, 1640e9, 360e9, 4, 16, 1, 256),
    )
}
# Bytes per second that a chip receives over the data-center network between slices: a quarter of
# 200 Gbit/s, for a host with four chips. An assumption; it depends on the data center.
DCN_BANDWIDTH = 6.25e9


@dataclasses.dataclass(frozen=True)
class Topology:
    """One slice, for example "v5p:4x4x4", or several equal slices."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Number of chips in all slices."""
        return math.prod(self.sizes) * self.slices

    def bandwidth(self, extent: tuple[int, ...]) -> float:
        """Return the bytes per second a chip receives within a group of this extent on the torus.

        A dimension contributes two links if the group spans a ring, one if it spans a line, and
        none if the group does not extend along it.
        """
        links = 0
        for reach, size in zip(extent, self.sizes, strict=True):
            if reach > 1:
                links += 2 if reach == size and size >= self.chip.wraps_from else 1
        return self.chip.ici_bandwidth * max(links, 1) / self.chip.ici_links


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Parse a topology such as "v5p:4x4x4".

    Raises:
      UserError: the name has another form, or its chip is not in CHIPS.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not match or match[1] not in CHIPS:
        raise UserError(
            f"--topology={name} is not supported; give a chip ({', '.join(CHIPS)}) and its slice,"
            " as in v5p:4x4x4 or v6e:16x16."
        )
    chip, sizes = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
    wanted = chip.ici_links // 2
    if len(sizes) != wanted:
        raise UserError(f"--topology={name}: a {chip.name} slice has {wanted} sizes.")
    return Topology(name, chip, sizes, slices)
