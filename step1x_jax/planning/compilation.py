"""Ahead-of-time compilation of the real programs for TPUs that are not attached."""

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
from step1x_jax.parallel.mesh import count_batch_shards
from step1x_jax.parallel.rules import batch_sharding, replicated
from step1x_jax.sampling.guidance import Guidance
from step1x_jax.sampling.sampler import scan_steps
from step1x_jax.sampling.step import Conditions
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.step.train_step import abstract_state, make_train_step
from step1x_jax.training.trainable_split import abstract_frozen, with_shardings
from step1x_jax.weights.quantize import abstract_quantized_model

# Language model tokens of the longest prompt: the release's picture, template and instruction.
LONGEST_PROMPT_TOKENS = 860


class CompiledProgram(NamedTuple):
    """A compiled program and its compile time, or the memory it needs if it does not fit.

    Attributes:
      program: None if it does not fit.
      lower_seconds: seconds for tracing and lowering.
      compile_seconds: seconds for compiling.
      arguments_gib: GiB of the arguments on each device.
      needed_gib: GiB needed on each device, if there is no program.
      available_gib: GiB available on each device, if there is no program.
    """

    program: jax.stages.Compiled | None
    lower_seconds: float
    compile_seconds: float
    arguments_gib: float
    needed_gib: float = 0.0
    available_gib: float = 0.0


def prepare_environment() -> None:
    """Set up this process to compile for TPUs that are not attached.

    Must be called before JAX initializes its devices. XLA_FLAGS is removed, because libtpu aborts
    on flags that it does not know. The compilation cache is turned off, because a cached program
    would not be compiled and timed.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # this is not a TPU VM with a metadata server
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU that one process has to own
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def topology_devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """Return the devices of a topology, for compilation only.

    Raises:
      UserError: libtpu is not installed, or does not know the topology.
    """
    try:
        import libtpu  # noqa: F401
    except ImportError as e:
        raise UserError(
            "compiling for TPUs needs libtpu: pip install '.[tpu]' (no TPU is needed)."
        ) from e
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if math.prod(int(size) for size in re.findall(r"\d+", topology.partition(":")[2])) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # the default is a host of 2 x 2
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as e:  # its type depends on the version
        reason = str(e).splitlines()[0]
        raise UserError(
            f"libtpu does not know the topology {topology} ({reason}); choose another."
        ) from e
    return list(found.devices)


def compile_train(config: TrainConfig, size: int, mesh: Mesh) -> CompiledProgram:
    """Compile the train step for square pictures with sides of `size` pixels."""
    state = abstract_state(config, mesh)
    batch = abstract_batch(config, size, mesh)
    with jax.set_mesh(mesh):
        frozen = abstract_frozen(config, mesh)
        return _compile(make_train_step(config, mesh, state), state, batch, frozen)


def compile_sample(
    config: TrainConfig, size: int, mesh: Mesh, quantize: str | None = None
) -> CompiledProgram:
    """Compile the sampler for one picture, with all steps in one program.

    An Editor calls a program of one step repeatedly, which takes as long. The picture's arrays are
    replicated over the chips; guidance makes a batch of 2.

    Args:
      config: gives the model's sizes and the sampling settings.
      size: side of the picture in pixels.
      mesh: mesh of the model, whose parameters are bfloat16.
      quantize: 8-bit format of the blocks, see `load_model`; None: no quantization.
    """
    model = abstract_inference_model(config.model, quantize)
    sharding, side = replicated(mesh), size // PIXELS_PER_LATENT

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

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
        return _compile(program, with_shardings(model[1], mesh), conditions, latents, times)


def compile_language_model(mesh: Mesh) -> CompiledProgram:
    """Compile the language model's forward pass over one picture with its instruction.

    As in conditioning/encoder_jax.py, with the longest prompt of the release and one example per
    batch shard.
    """
    config = MLLMConfig(param_dtype="bfloat16")
    graph, params = abstract_mllm(config)
    split = batch_sharding(mesh)
    b = count_batch_shards(mesh)

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((b, *shape), dtype, sharding=split)

    patches, tokens = PATCHES[-1], padded_size(LONGEST_PROMPT_TOKENS, (TOKENS,))
    pictures = Pictures(
        array(patches, config.vision.patch_width, dtype=jnp.float32),
        array(2, patches),
        array(patches),
    )
    prompts = Prompts(array(tokens), array(3, tokens), array(tokens), array(tokens, dtype=bool))
    program = jax.jit(lambda params, *batch: nnx.merge(graph, params)(*batch))
    with jax.set_mesh(mesh):
        return _compile(program, with_shardings(params, mesh), pictures, prompts)


def compile_decode(examples: int, size: int, mesh: Mesh) -> CompiledProgram:
    """Compile the release's decoder, from latents to square pictures of `size` pixels."""
    graph, params = abstract_autoencoder(AutoencoderConfig())
    sharding, side = replicated(mesh), size // PIXELS_PER_LATENT

    def array(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    params = jax.tree.map(lambda x: array(x.shape), params)
    program = jax.jit(lambda params, latents: nnx.merge(graph, params).decode(latents))
    with jax.set_mesh(mesh):
        return _compile(program, params, array((examples, side, side, LATENT_CHANNELS)))


def abstract_inference_model(
    config: ModelConfig, quantize: str | None = None
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return graph and abstract parameters for inference, in bfloat16 or with 8-bit blocks."""
    config = dataclasses.replace(config, param_dtype="bfloat16", remat="none")
    return abstract_quantized_model(config, quantize)


def _compile(program: jax.stages.Wrapped, *args: Any) -> CompiledProgram:
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
        return CompiledProgram(None, middle - start, time.monotonic() - middle, arguments, *found)
    return CompiledProgram(compiled, middle - start, time.monotonic() - middle, arguments)


def _out_of_memory(message: str, arguments: float) -> tuple[float, float] | None:
    """Parse the GiB needed and available from the compiler's out-of-memory error.

    If the compiler gives up early, it counts only temporaries, and `arguments` GiB are added.

    Returns:
      (needed, available), or None if the message is another error.
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
    """Return the extent of a group of devices on the torus, and whether it spans slices.

    The group is assumed to lie along one mesh axis, or along the fewest neighbouring axes, with
    that many devices; if there are none, it is all devices.

    Args:
      mesh: the mesh.
      dimensions: number of dimensions of the torus.
      size: number of devices in the group.
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
