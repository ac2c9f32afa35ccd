"""The device mesh with four named axes, on any number of devices.

rules.py defines which array axis is sharded over which mesh axis.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from msgspec import Meta

from step1x_jax.errors import UserError
from step1x_jax.kernels.mesh_axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS

AXES = (*BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS)

# The release's width, 3072, gives 48 rows per device on 64 devices: a multiple of the tiles of a
# TPU's memory (16 rows of bfloat16). On 256 devices it gives 12, and every gathered weight would be
# copied to another layout.
MAX_FSDP = 64


Devices = Annotated[int, Meta(ge=-1, le=1 << 20)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis. -1 (for one axis) takes all remaining devices.

    With data=-1 and fsdp=-1 together, fsdp takes up to MAX_FSDP devices and data takes the rest.
    """

    # Replicas of the parameters, each with its shard of the batch. TPU slices that only the data-
    # center network connects must be along this axis: use a multiple of their number.
    data: Devices = 1
    fsdp: Devices = -1  # parameters, optimizer state and batch are sharded over it
    sequence: Devices = 1  # tokens are sharded over it, for fewer examples than devices
    tensor: Devices = 1  # heads and the MLPs' hidden width are sharded over it

    def validate(self) -> None:
        """Raise UserError for sizes that are impossible with any number of devices."""
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(
                    f"mesh.{name} is {size}; use a positive number of devices, or -1 for all"
                    " remaining devices."
                )
        both = sizes["data"] == sizes["fsdp"] == -1
        if list(sizes.values()).count(-1) > 1 + both:
            raise UserError(
                f"{_format_sizes(sizes)}: only one of them may be -1, or data and fsdp."
            )


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices of all processes in a mesh.

    Args:
      config: the sizes of the axes.
      devices: the devices; default: all devices of all processes.

    Returns:
      A mesh with the axes AXES, all of type Auto: the compiler chooses the shardings of arrays that
      have no sharding constraint.

    Raises:
      UserError: the product of the sizes is not the number of devices, or parameters would be
        sharded over slices.
    """
    config.validate()
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes.count(-1) == 2:
        sizes[1] = math.gcd(len(devices) // slices // math.prod(sizes[2:]), MAX_FSDP)
    if -1 in sizes:
        given = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(devices) // given, 1)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"{_format_sizes(dataclasses.asdict(config))} do not fit {len(devices)} devices; choose"
            " sizes whose product is the number of devices."
        )
    types = (AxisType.Auto,) * len(AXES)
    if slices == 1:  # a mesh axis may be part of a torus dimension, such as 64 of 16 x 16
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(arranged, AXES, axis_types=types)
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data={sizes[0]} is not a multiple of the {slices} slices, and parameters cannot"
            f" be sharded over slices; set mesh.data to {slices}."
        )
    within = (sizes[0] // slices, *sizes[1:])
    between = (slices, *(1 for _ in sizes[1:]))
    arranged = mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )
    return Mesh(arranged, AXES, axis_types=types)


def parse_mesh(text: str) -> MeshConfig:
    """Parse "data=1,fsdp=64".

    Axes that are not named have size 1, except fsdp, which takes all remaining devices.

    Raises:
      UserError: an item is not an axis and a number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in AXES or not number.lstrip("-").isdigit():
            raise UserError(
                f"--mesh={text}: {part!r} is not an axis and its size; write data=1,fsdp=64 with"
                f" the axes {', '.join(AXES)}."
            )
        sizes[axis] = int(number)
    if "fsdp" not in sizes:
        sizes["fsdp"] = 1 if -1 in sizes.values() else -1
    return MeshConfig(**sizes)


def count_batch_shards(mesh: Mesh) -> int:
    """Return the number of shards of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise UserError unless a batch splits evenly over the mesh, and then into microbatches.

    Args:
      batch_size: examples in a step.
      mesh: the device mesh.
      accumulate: number of microbatches per step.
    """
    shards = count_batch_shards(mesh)
    if batch_size % (shards * accumulate):
        times = f" and training.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"data.batch_size {batch_size} does not split over {shards} devices"
            f" ({_format_sizes({axis: mesh.shape[axis] for axis in BATCH_AXES})}){times}; make it a"
            " multiple."
        )


def _format_sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
