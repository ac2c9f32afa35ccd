"""The device mesh: one object with four named axes, on any number of devices.

What is split along which axis says rules.py.
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

# The release's width, 3072, over 64 devices are 48 rows each, whole tiles of a TPU's memory (16
# rows of bfloat16). Over 256 they are 12: every gathered weight would be copied to another layout.
WIDEST_FSDP = 64


Devices = Annotated[int, Meta(ge=-1, le=1 << 20)]


@dataclasses.dataclass
class MeshConfig:
    """How many devices lie along each axis; -1 (for one of them) takes all that are left.

    data=-1 and fsdp=-1 together: fsdp takes up to WIDEST_FSDP of them, data the others.
    """

    # Copies of the parameters, each with its part of the batch. Slices that only the slower
    # data-centre network joins lie along it: a multiple of their number.
    data: Devices = 1
    fsdp: Devices = -1  # parameters, optimizer state and batch are split over it
    sequence: Devices = 1  # an example's tokens are split over it, for fewer examples than devices
    tensor: Devices = 1  # heads and the MLPs' hidden width are split over it

    def validate(self) -> None:
        """Raises UserError for sizes that no number of devices can satisfy."""
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size < 1 and size != -1:
                raise UserError(
                    f"mesh.{name} is {size}; use a positive number of devices, or -1 for all that"
                    " are left."
                )
        both = sizes["data"] == sizes["fsdp"] == -1
        if list(sizes.values()).count(-1) > 1 + both:
            raise UserError(f"{_words(sizes)}: only one of them may be -1, or data and fsdp.")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices of all processes.

    Args:
      config: the sizes of the axes.
      devices: default all of them.

    Returns:
      A mesh with the axes of AXES, all of type Auto: the compiler places what lies between the
      shardings we name.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or would split parameters
        over slices.
    """
    config.validate()
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = [getattr(config, axis) for axis in AXES]
    if sizes.count(-1) == 2:
        sizes[1] = math.gcd(len(devices) // slices // math.prod(sizes[2:]), WIDEST_FSDP)
    if -1 in sizes:
        given = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(devices) // given, 1)
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"{_words(dataclasses.asdict(config))} do not fit {len(devices)} devices; choose them"
            " so that they multiply to it."
        )
    types = (AxisType.Auto,) * len(AXES)
    if slices == 1:  # an axis of the mesh may be a part of a dimension of the torus, 64 of 16 x 16
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(arranged, AXES, axis_types=types)
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data={sizes[0]} is no multiple of the {slices} slices; parameters are not split"
            f" over slices: set mesh.data to {slices}."
        )
    within = (sizes[0] // slices, *sizes[1:])
    between = (slices, *(1 for _ in sizes[1:]))
    arranged = mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )
    return Mesh(arranged, AXES, axis_types=types)


def parse_mesh(text: str) -> MeshConfig:
    """A mesh from "data=1,fsdp=64"; axes that are not named have size 1, but fsdp, which fills.

    Raises:
      UserError: a part that is no axis and number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in AXES or not number.lstrip("-").isdigit():
            raise UserError(
                f"--mesh={text}: {part!r} is no axis and its size; write data=1,fsdp=64 with"
                f" the axes {', '.join(AXES)}."
            )
        sizes[axis] = int(number)
    if "fsdp" not in sizes:
        sizes["fsdp"] = 1 if -1 in sizes.values() else -1
    return MeshConfig(**sizes)


def batch_parts(mesh: Mesh) -> int:
    """Over how many groups of devices a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless `batch_size` examples split evenly over the mesh, and then again."""
    parts = batch_parts(mesh)
    if batch_size % (parts * accumulate):
        times = f" and training.accumulate={accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"data.batch_size {batch_size} does not split over {parts} devices"
            f" ({_words({axis: mesh.shape[axis] for axis in BATCH_AXES})}){times}; make it a"
            " multiple."
        )


def _words(sizes: dict[str, int]) -> str:
    return ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
