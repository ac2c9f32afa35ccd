"""Compiles the real programs for TPUs that are not here."""

import dataclasses
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.conditioning.encoder_jax import PATCHES, TOKENS
from step1x_jax.conditioning.images import PIXELS_PER_LATENT
from step1x_jax.data.records import LATENT_CHANNELS
from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import abstract_autoencoder
from step1x_jax.models.config import AutoencoderConfig, ModelConfig
from step1x_jax.models.mllm.config import MLLMConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.models.mllm.positions import Pictures, Prompts, padded_size
from step1x_jax.parallel.compiler_options import compiler_options
from step1x_jax.parallel.devices import GIB, bytes_per_device
from step1x_jax.parallel.mesh import batch_parts
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.sampler import Conditions, scan_steps
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.parts import abstract_frozen, placed
from step1x_jax.training.step.train_step import abstract_state, make_train_step
from step1x_jax.weights.quantizing import abstract_quantized

LONGEST_PROMPT = 860  # tokens of the language model: the release's picture, prompt and instruction


class Compiled(NamedTuple):
    """A compiled program and the seconds that it took; GiB where it does not fit."""

    program: jax.stages.Compiled | None
    lower_seconds: float
    compile_seconds: float
    arguments_gib: float  # on each device
    needed_gib: float = 0.0  # if there is no program: what it would have needed
    available_gib: float = 0.0


def prepare_environment() -> None:
    """Makes this process one that compiles for TPUs without having one.

    Before any device of JAX is asked for. XLA_FLAGS go: libtpu ends the process for one that it
    does not know. The cache of compiled programs is off: nothing would be compiled, or timed.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # no machine of a TPU cloud, nobody to ask
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU here that one process has to own
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def devices_of(topology: str, slices: int = 1) -> list[jax.Device]:
    """The chips of a topology, which can be compiled for and nothing else.

    Raises:
      UserError: libtpu is not installed, or knows no such topology.
    """
    try:
        import libtpu  # noqa: F401
    except ImportError as e:
        raise UserError(
            "compiling for TPUs needs libtpu: pip install '.[tpu]' (no TPU is needed)."
        ) from e
    from jax.experimental import topologies

    more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if math.prod(int(size) for size in re.findall(r"\d+", topology.partition(":")[2])) == 1:
        more["chips_per_host_bounds"] = (1, 1, 1)  # else a host has 2 x 2
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more)
    except Exception as e:  # of several kinds, by version
        reason = str(e).splitlines()[0]
        raise UserError(f"libtpu knows no topology {topology} ({reason}); try another.") from e
    return list(found.devices)


def compile_train(config: TrainConfig, size: int, mesh: Mesh) -> Compiled:
    """Compiles the train step for square pictures of `size` pixels."""
    state = abstract_state(config, mesh)
    batch = abstract_batch(config, size, mesh)
    with jax.set_mesh(mesh):
        frozen = abstract_frozen(config, mesh)
        return _compile(make_train_step(config, mesh, state), state, batch, frozen)


def compile_sample(
    config: TrainConfig, size: int, mesh: Mesh, quantize: str | None = None
) -> Compiled:
    """Compiles the sampler for one picture, all steps as one program.

    An Editor calls its one step again and again, which takes as much. The picture's arrays lie
    whole on every chip; guidance makes a batch of 2 of them.

    Args:
      config: of the run; its model's sizes and its sampling settings count.
      size: side of the picture in pixels.
      mesh: on which the model lies, in bfloat16.
      quantize: stores the blocks in 8 bits, see `load_model`.
    """
    model = abstract_editing(config.model, quantize)
    whole, side = replicated(mesh), size // PIXELS_PER_LATENT

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    latents = array(1, side, side, LATENT_CHANNELS)
    text = array(1, config.model.text_length, config.model.connector_in_channels, dtype="bfloat16")
    lengths = array(1, dtype=jnp.int32)
    conditions = Conditions(latents, text, lengths, text, lengths)
    sampling = config.sampling
    guidance = Guidance(sampling.guidance, sampling.truncate_for(config.model.version))
    times = array(sampling.num_steps + 1)

    def sample(params: Any, conditions: Conditions, noise: jax.Array, times: jax.Array) -> Any:
        return scan_steps(model[0], guidance, params, conditions, noise, times)

    program = jax.jit(sample, compiler_options=compiler_options(mesh.devices.flat[0]))
    with jax.set_mesh(mesh):
        return _compile(program, placed(model[1], mesh), conditions, latents, times)


def compile_read(mesh: Mesh) -> Compiled:
    """Compiles the language model's pass over one picture with its instruction.

    As conditioning/encoder_jax.py runs it: the longest prompt of the release, an example for each
    part of the batch.
    """
    config = MLLMConfig(param_dtype="bfloat16")
    graph, params = abstract_mllm(config)
    split = batch_sharding(mesh)
    b = batch_parts(mesh)

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((b, *shape), dtype, sharding=split)

    patches, tokens = PATCHES[-1], padded_size(LONGEST_PROMPT, (TOKENS,))
    pictures = Pictures(
        array(patches, config.vision.patch_width, dtype=jnp.float32),
        array(2, patches),
        array(patches),
    )
    prompts = Prompts(array(tokens), array(3, tokens), array(tokens), array(tokens, dtype=bool))
    program = jax.jit(lambda params, *batch: nnx.merge(graph, params)(*batch))
    with jax.set_mesh(mesh):
        return _compile(program, placed(params, mesh), pictures, prompts)


def compile_decode(examples: int, size: int, mesh: Mesh) -> Compiled:
    """Compiles the release's autoencoder from latents to square pictures of `size` pixels."""
    graph, params = abstract_autoencoder(AutoencoderConfig())
    whole, side = replicated(mesh), size // PIXELS_PER_LATENT

    def array(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole)

    params = jax.tree.map(lambda x: array(x.shape), params)
    program = jax.jit(lambda params, latents: nnx.merge(graph, params).decode(latents))
    with jax.set_mesh(mesh):
        return _compile(program, params, array((examples, side, side, LATENT_CHANNELS)))


def abstract_editing(
    config: ModelConfig, quantize: str | None = None
) -> tuple[nnx.GraphDef, nnx.State]:
    """The model as the release stores it, in bfloat16, or its blocks in 8 bits."""
    config = dataclasses.replace(config, param_dtype="bfloat16", remat="none")
    return abstract_quantized(config, quantize)


def _compile(program: jax.stages.Wrapped, *args: Any) -> Compiled:
    start = time.monotonic()
    lowered = program.lower(*args)
    middle = time.monotonic()
    arguments = bytes_per_device(args) / GIB
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        found = _out_of_memory(str(e), arguments)
        if found is None:
            raise
        return Compiled(None, middle - start, time.monotonic() - middle, arguments, *found)
    return Compiled(compiled, middle - start, time.monotonic() - middle, arguments)


def _out_of_memory(message: str, arguments: float) -> tuple[float, float] | None:
    """GiB needed and available, from what the compiler says of a program that does not fit.

    Where it gives up early it has counted temporaries alone: `arguments` GiB come on top.
    """
    unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}
    size = r"([\d.]+)([KMGT])"
    late = re.search(rf"Used {size} of {size} hbm", message)
    early = re.search(rf"HLO temporaries \({size}\) exceeds available HBM \({size}\)", message)
    match = late or early
    if not match:
        return None
    needed, available = float(match[1]) * unit[match[2]], float(match[3]) * unit[match[4]]
    return needed + (0.0 if late else arguments), available


def group_extent(mesh: Mesh, dimensions: int, size: int) -> tuple[tuple[int, ...], bool]:
    """How far a group of so many devices reaches along the torus, and whether it spans slices.

    A group is taken to be the devices along the one axis of the mesh, or the fewest neighbouring
    axes, that have as many; without such, all devices.
    """
    sizes = list(mesh.shape.values())
    devices = mesh.devices
    for count in range(1, len(sizes) + 1):
        for first in range(len(sizes) - count, -1, -1):
            axes = range(first, first + count)
            if np.prod([sizes[axis] for axis in axes]) == size and size > 1:
                index = tuple(slice(None) if axis in axes else 0 for axis in range(len(sizes)))
                return _extent(devices[index].ravel(), dimensions)
    return _extent(devices.ravel(), dimensions)


def _extent(devices: np.ndarray, dimensions: int) -> tuple[tuple[int, ...], bool]:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    extent = tuple(len({d.coords[i] for d in devices}) for i in range(dimensions))
    return extent, len(slices) > 1
