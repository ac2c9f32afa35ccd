"""The device mesh: one object with four named axes, on any number of devices."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from step1x_jax.errors import UserError

AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass
class MeshConfig:
    """How many devices lie along each axis; -1 (for one of them) takes all that are left.

    data: copies of the parameters, each with its part of the batch.
    fsdp: parameters and optimizer state are split over it, and the batch as well.
    """

    data: int = 1
    fsdp: int = -1

    def validate(self) -> None:
        """Raises UserError for sizes that no number of devices can satisfy."""
        for name in BATCH_AXES:
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise UserError(
                    f"mesh.{name} is {getattr(self, name)}; use a positive number of devices,"
                    " or -1 for all that are left."
                )
        if self.data == self.fsdp == -1:
            raise UserError("mesh.data and mesh.fsdp are both -1; give one of them a number.")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices of all processes.

    Args:
      config: the sizes of the axes.
      devices: default all of them.

    Returns:
      A mesh with the axes of AXES (sequence and tensor have size 1), all of type Auto: the
      compiler places what lies between the shardings we name.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    config.validate()
    devices = jax.devices() if devices is None else list(devices)
    sizes = [config.data, config.fsdp, 1, 1]
    if -1 in sizes:
        given = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(devices) // given, 1)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"A mesh of data={config.data} x fsdp={config.fsdp} does not fit {len(devices)}"
            " devices; choose mesh.data and mesh.fsdp so that they multiply to it."
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless `batch_size` examples split evenly over the mesh."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % parts:
        raise UserError(
            f"data.batch_size {batch_size} does not split over {parts} devices"
            f" (mesh data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}); make it a multiple."
        )
