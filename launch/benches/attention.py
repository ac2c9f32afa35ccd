"""Attention at the shapes of 512, 768 and 1024 px: every implementation that runs here.

A forward pass counts 4 B H L^2 K operations, forward and backward 3.5 times that, for all of them.
"fused" is QK-norm, RoPE and attention together, the kernels' fused entry where there is one.
"of matmul peak" is against a large bfloat16 matmul measured in the same run. PyTorch's SDPA is
measured beside them where torch has CUDA.

The first rows are computed, not measured: the least time that a TPU could take, by its matmul units
and its memory. With --tune, block sizes are searched instead.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from launch.benches.clock import median_seconds
from launch.shared.number_list import define_number_list
from step1x_jax import choices
from step1x_jax.errors import UserError
from step1x_jax.kernels import attention_tpu, tuning
from step1x_jax.kernels.attention import attention, qk_norm_rope_attention
from step1x_jax.kernels.norm_rope import Norms
from step1x_jax.planning.chips import CHIPS

_PIXELS = define_number_list(
    "pixels", [512, 768, 1024], "Sides of the pictures.", lower=16, upper=8192
)
_ATTENTION_BATCHES = define_number_list("attention_batches", [1, 2], "Examples at once.")
_TUNE = flags.DEFINE_bool("tune", False, "Search the block sizes of the kernels instead.")
_HEADS = flags.DEFINE_integer("heads", 24, "Attention heads.", lower_bound=1)

WIDTH, TEXT = 128, 640
BACKWARD = 2.5  # times the forward pass
PEAK_SIDE = 8192  # of the matmul that is taken for the peak
SDPA = ("FLASH_ATTENTION", "CUDNN_ATTENTION")


def rows() -> Iterator[dict[str, Any]]:
    """One row for each shape, implementation and kind of work."""
    if _TUNE.value:
        yield from tuned()
        return
    yield from rooflines()
    peak = matmul_peak()
    yield {"matmul": f"{PEAK_SIDE}^3 bfloat16", "TFLOP/s": peak}
    for pixels in _PIXELS.value:
        length = 2 * (pixels // 16) ** 2 + TEXT
        for batch in _ATTENTION_BATCHES.value:
            shape = (batch, length, _HEADS.value, WIDTH)
            work = 4 * batch * _HEADS.value * length**2 * WIDTH / 1e12
            for name, kind, run in [*ours(shape), *theirs(shape)]:
                about = {"px": pixels, "L": length, "batch": batch, "by": name, "what": kind}
                try:
                    seconds = median_seconds(run)
                except (UserError, jax.errors.JaxRuntimeError, RuntimeError) as e:
                    yield about | {"skipped": str(e).splitlines()[0]}
                    continue
                speed = work * (1 + BACKWARD * ("backward" in kind)) / seconds
                yield about | {
                    "ms": 1000 * seconds,
                    "TFLOP/s": speed,
                    "of matmul peak": speed / peak,
                }


def rooflines() -> Iterator[dict[str, Any]]:
    """The least milliseconds on TPUs: what is slower, the matmuls or reading and writing once."""
    for pixels in _PIXELS.value:
        length = 2 * (pixels // 16) ** 2 + TEXT
        work = 4 * _HEADS.value * length**2 * WIDTH / 1e12
        array = _HEADS.value * length * WIDTH * 2 / 1e9  # GB of q, k, v or the output
        for name, chip in CHIPS.items():
            speed = chip.peak / 1e12 * min(1, WIDTH / chip.mxu_width)  # of a head in a matmul unit
            bandwidth = chip.hbm_bandwidth / 1e9
            yield {
                "computed for": name,
                "px": pixels,
                "L": length,
                "batch": 1,
                "ms forward": 1000 * max(work / speed, 4 * array / bandwidth),
                "ms forward + backward": 1000
                * max(work * (1 + BACKWARD) / speed, 12 * array / bandwidth),
            }


def tuned() -> Iterator[dict[str, Any]]:
    """The fastest blocks for each length, as lines of kernels/tuning.py's tables."""
    kind = jax.devices()[0].device_kind
    on_gpu = jax.default_backend() == "gpu"
    table: dict[tuple[str, int], Any] = tuning.GPU_TABLE if on_gpu else tuning.TPU_TABLE
    of_kind = tuning.gpu_blocks if on_gpu else tuning.tpu_blocks
    candidates: list[Any] = tuning.gpu_candidates() if on_gpu else tuning.tpu_candidates()
    for pixels in _PIXELS.value:
        length = 2 * (pixels // 16) ** 2 + TEXT
        best: Any = of_kind(kind, length, length)
        milliseconds = {}
        for field in best._fields:
            fastest = float("inf")
            for sizes in candidates:
                table[kind, length] = best._replace(**{field: sizes})
                run = kernel_pass(length, on_gpu, backward=field != "forward")
                try:
                    seconds = median_seconds(run)
                except (jax.errors.JaxRuntimeError, ValueError):  # more than fits
                    continue
                if seconds < fastest:
                    fastest, best = seconds, table[kind, length]
            milliseconds[f"ms with {field}"] = 1000 * fastest
        table[kind, length] = best
        yield {"entry": f'("{kind}", {length}): {best},'} | milliseconds


def kernel_pass(length: int, on_gpu: bool, backward: bool) -> Callable[[], Any]:
    """A pass of the kernels alone, traced anew: blocks are read then."""
    kernels = attention_tpu.KERNELS
    if on_gpu:
        from step1x_jax.kernels import attention_gpu

        kernels = attention_gpu.KERNELS
    shape = (1, length, _HEADS.value * WIDTH)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, do = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    scales, rope = jnp.ones((1, WIDTH)), jnp.ones((2, length, WIDTH))
    inputs = (WIDTH, q, k, v, jnp.array([length]), None, Norms(scales, scales, rope), 0)
    static = (0, 7)
    if not backward:
        return partial(jax.jit(lambda *x: kernels.forward(*x), static_argnums=static), *inputs)
    lse = jnp.full((1, _HEADS.value, 1, length), 10.0)
    gradients = jax.jit(lambda *x: kernels.backward(*x), static_argnums=static)
    return partial(gradients, *inputs, q, lse, do)


def matmul_peak() -> float:
    """TFLOP/s of a large matmul."""
    side = PEAK_SIDE if jax.default_backend() != "cpu" else 512
    x = jnp.ones((side, side), jnp.bfloat16)
    return 2 * side**3 / 1e12 / median_seconds(partial(jax.jit(jnp.matmul), x, x))


def ours(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Implementation, kind of work, and what does it; shape (B, L, H, K)."""
    keys = jax.random.split(jax.random.key(0), 4)
    flat = *shape[:2], shape[2] * shape[3]
    q, k, v, do = (jax.random.normal(key, flat, jnp.bfloat16) for key in keys)
    scales, rope = jnp.ones((1, WIDTH)), jnp.ones((2, shape[1], WIDTH))
    for name in choices.ATTENTION:
        plain = partial(attention, head_dim=WIDTH, implementation=name)

        def fused(q, k, v, name=name):
            return qk_norm_rope_attention(q, k, v, scales, scales, rope, implementation=name)

        for kind, function in (("attention", plain), ("fused", fused)):
            yield name, f"{kind} forward", partial(jax.jit(function), q, k, v)
            both = jax.jit(partial(_with_gradients, function))
            yield name, f"{kind} forward + backward", partial(both, q, k, v, do)


def _with_gradients(function: Callable, q: Any, k: Any, v: Any, do: Any) -> Any:
    value, vjp = jax.vjp(function, q, k, v)
    return value, vjp(do)


def theirs(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """PyTorch's, if it has CUDA."""
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    b, length, h, width = shape
    heads_first = b, h, length, width
    q, k, v, do = (torch.randn(heads_first, dtype=torch.bfloat16, device="cuda") for _ in range(4))

    def run(backend, backward):
        with sdpa_kernel(getattr(SDPBackend, backend)):
            a, b, c = (x.detach().requires_grad_(backward) for x in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(a, b, c)
            if backward:
                out.backward(do)
        torch.cuda.synchronize()

    for backend in SDPA:
        name = f"torch {backend.split('_')[0].lower()}"
        yield name, "attention forward", partial(run, backend, False)
        yield name, "attention forward + backward", partial(run, backend, True)
