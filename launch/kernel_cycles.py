"""Count the cycles of a TPU attention kernel from the compiler's schedule, without a TPU.

    python -m launch.kernel_cycles --topology=v5p:2x2x1 --direction=forward --block=640 --chunk=640

Prints a line for the table of step1x_jax/planning/kernel_cycles.py. Seconds to a minute; libtpu.
"""

import os
import pathlib
import tempfile
from functools import partial

from absl import flags

from launch.shared.command import run
from step1x_jax.errors import UserError
from step1x_jax.planning.compilation import prepare_environment

_TOPOLOGY = flags.DEFINE_string("topology", "v5p:2x2x1", "The smallest slice of the chip.")
_DIRECTION = flags.DEFINE_enum("direction", "forward", ["forward", "backward"], "The pass.")
_BLOCK = flags.DEFINE_integer("block", 640, "Rows of a block: of queries, backward of keys.")
_CHUNK = flags.DEFINE_integer("chunk", 640, "Rows of a chunk: of keys, backward of queries.")

# So many that arrays are in HBM, as they are in a model: a small one might be kept in VMEM, from
# where the kernel would copy instead of letting it be sent.
HEADS, WIDTH = 256, 128


def main() -> None:
    """Compile the kernel with a dump of its schedule, and read that."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_environment()
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"  # before libtpu is loaded
        )
        device = compile_kernel()
        found = sorted(pathlib.Path(folder).glob("*_kernel*-final_bundles.txt"))
        schedules = [path for path in found if "analysis" not in path.name]
        if not schedules:
            raise UserError("the compiler wrote no schedule; this libtpu has another flag for it.")
        from step1x_jax.planning.kernel_cycles import count_loop_bundles

        loops = count_loop_bundles(schedules[-1].read_text(), _DIRECTION.value)
    chip = _TOPOLOGY.value.split(":")[0]
    key = chip, _DIRECTION.value, _BLOCK.value, _CHUNK.value
    print(f"    {key}: {loops},  # {device}".replace("'", '"'))


def compile_kernel() -> str:
    """Compile it for one chip; give the kind of device."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from step1x_jax.kernels import tuning
    from step1x_jax.kernels.attention_tpu import KERNELS
    from step1x_jax.kernels.norm_rope import Norms
    from step1x_jax.planning.compilation import topology_devices

    device = topology_devices(_TOPOLOGY.value)[0]
    mesh = Mesh([device], ("data",), axis_types=(AxisType.Auto,))
    length = _BLOCK.value * _CHUNK.value // 128  # a multiple of both, and of a tile
    pair = _BLOCK.value, _CHUNK.value
    tuning.TPU_TABLE[device.device_kind, length] = tuning.Blocks(pair, pair[::-1])

    def array(*shape, dtype=jnp.bfloat16):
        place = NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    q, lengths = array(1, length, HEADS * WIDTH), array(1, dtype=jnp.int32)
    scale = array(1, WIDTH, dtype=jnp.float32)
    norms = Norms(scale, scale, array(2, length, WIDTH, dtype=jnp.float32))
    sums = array(1, HEADS, 1, length, dtype=jnp.float32)
    with jax.set_mesh(mesh):
        if _DIRECTION.value == "forward":
            step = jax.jit(lambda *x: KERNELS.forward(WIDTH, *x, 0))
            step.lower(q, q, q, lengths, None, norms).compile()
        else:
            backward = partial(KERNELS.backward, WIDTH)
            step = jax.jit(lambda q, k, v, n, norms, *x: backward(q, k, v, n, None, norms, 0, *x))
            step.lower(q, q, q, lengths, norms, q, sums, q).compile()
    return device.device_kind


if __name__ == "__main__":
    run(main)
