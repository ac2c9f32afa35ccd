"""Device memory that the models of an edit need, and what helps where it is too much."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from step1x_jax.errors import UserError
from step1x_jax.models.config import LoraConfig, ModelConfig
from step1x_jax.models.mllm.model import abstract_mllm
from step1x_jax.parallel.devices import GIB, bytes_per_device, get_memory_bytes
from step1x_jax.parallel.rules import shardings
from step1x_jax.weights.checks import common_dtype
from step1x_jax.weights.filling import set_shardings
from step1x_jax.weights.language_model import open_mllm, read_mllm_config
from step1x_jax.weights.load import open_autoencoder
from step1x_jax.weights.lora.adapters import select_targets
from step1x_jax.weights.open import Weights
from step1x_jax.weights.quantize import abstract_quantized_model
from step1x_jax.weights.readers import Tensors

HELP = (
    "let the models wait in the host's memory (--offload), store the transformer in 8 bits"
    " (--quantize=int8), split it over several devices (--mesh=fsdp=2,tensor=2), or take a smaller"
    " --size"
)


class TooLittleMemory(UserError):
    """The models or what they compute do not fit the devices' memory."""


@dataclasses.dataclass(frozen=True)
class ComponentMemory:
    """One model of an edit.

    Attributes:
      name: "model", "autoencoder" or "language model".
      kind: its format, and where it is.
      count: of parameters.
      bytes_each: that it takes on each device.
      dtypes: in which it is stored there.
    """

    name: str
    kind: str
    count: int
    bytes_each: float
    dtypes: Sequence[str]

    @property
    def line(self) -> str:
        """Return a description in one line."""
        return (
            f"  {self.name}: {self.kind}; {_in_words(self.count)} parameters,"
            f" {' and '.join(self.dtypes)}, {self.bytes_each / GIB:.2f} GiB"
        )


def describe_components(
    weights: Weights,
    autoencoder: epath.PathLike,
    encoder: str,
    quantize: str | None,
    mesh: Mesh | None,
) -> list[ComponentMemory]:
    """The three models of an edit, of which no number has been read yet.

    Args:
      weights: of the model.
      autoencoder: its file or folder.
      encoder: the language model's folder.
      quantize: see `load_model`.
      mesh: over which model and language model are split.

    Raises:
      UserError: autoencoder or language model cannot be read.
    """
    config = weights.config
    assert isinstance(config, ModelConfig)
    mllm = open_mllm(encoder)
    model_size, mllm_size = None, None
    if mesh is not None:
        model_size = _on_each(abstract_quantized_model(config, quantize)[1], mesh)
        param_dtype = common_dtype(mllm.dtypes.values())
        sizes = dataclasses.replace(read_mllm_config(encoder), param_dtype=param_dtype)
        mllm_size = _on_each(abstract_mllm(sizes)[1], mesh)
    names = select_targets(config, LoraConfig().targets)[0] if quantize else {}
    in_8_bits = {f"{module}.weight": quantize or "" for module in names}
    vae = open_autoencoder(autoencoder)
    title = f"{weights.format.title}, {config.version}, of {weights.path}"
    return [
        _part("model", title, weights.tensors, model_size, in_8_bits),
        _part("autoencoder", f"{vae.format.title}, of {vae.path}", vae.tensors, None),
        _part("language model", f"Qwen2.5-VL, of {encoder}", mllm, mllm_size),
    ]


def _on_each(params: nnx.State, mesh: Mesh) -> float:
    """Bytes of abstract parameters on each device; not every one is split over all of them."""
    return bytes_per_device(set_shardings(params, shardings(params, mesh)))


def _part(
    name: str,
    kind: str,
    tensors: Tensors,
    bytes_each: float | None,
    in_8_bits: Mapping[str, str] | None = None,
) -> ComponentMemory:
    """Return the size of a reader's tensors; without `bytes_each` a device holds them all."""
    narrow = in_8_bits or {}
    counts = {tensor: math.prod(shape) for tensor, shape in tensors.shapes.items()}
    widths = {t: 1 if t in narrow else tensors.dtypes[t].itemsize for t in counts}
    kinds = dict.fromkeys(narrow.get(tensor, str(tensors.dtypes[tensor])) for tensor in counts)
    size = float(sum(n * widths[tensor] for tensor, n in counts.items()))
    each = size if bytes_each is None else bytes_each
    return ComponentMemory(name, kind, sum(counts.values()), each, list(kinds))


def _in_words(count: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:,}"


def check_memory(
    components: Sequence[ComponentMemory], mesh: Mesh | None, *, offload: bool, encoder_waits: bool
) -> None:
    """Compare what is to be in a device's memory at once with what it has.

    Args:
      components: of `describe_components`.
      mesh: their devices; None: the default one.
      offload: the largest of model and language model is there at a time.
      encoder_waits: the language model may never be loaded.

    Raises:
      TooLittleMemory: the weights alone do not fit.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    available = get_memory_bytes(device)
    sizes = {component.name: component.bytes_each for component in components}
    if encoder_waits:
        del sizes["language model"]
    needed = sum(sizes.values())
    if offload:
        needed = sizes.pop("autoencoder") + max(sizes.values())
    if available is not None and needed > available:
        each = ", ".join(
            f"{component.name} {component.bytes_each / GIB:.1f}" for component in components
        )
        raise TooLittleMemory(
            f"the weights need {needed / GIB:.1f} GiB of a device's memory ({each}), and"
            f" {device.device_kind} has {available / GIB:.1f}: {HELP}."
        )


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Turn what JAX raises where a device's memory is full into a TooLittleMemory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        size = re.search(r"allocat\w* ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", str(e))
        wanted = f" (it was to hold {size[1]} more)" if size else ""
        raise TooLittleMemory(f"the device's memory is full{wanted}: {HELP}.") from e
