"""The official layout: a two-way table between its tensors and our parameters.

Only this file knows that layout. A `TensorEntry` is one tensor of the official file. Its `slices`
say which of our parameters it holds and how: a slice is cut along one axis, its rows are permuted
for RoPE, and it is transposed. Numbers are moved, never computed, so both directions are exact.

Another layout of the same model is either another function from a config to a Table, beside
`model_table`, or a map between its tensors and the official ones (diffusers.py).

Legend: D model width, F mlp width, K head width, C other widths.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flax import nnx

from step1x_jax.models.config import ModelConfig
from step1x_jax.weights.copying import to_contiguous

ShardIndex = tuple[range, ...]  # of a contiguous block of an array: a range per axis


@dataclasses.dataclass(frozen=True)
class ParamSlice:
    """How one of our parameters (or one layer of a stacked one) is stored in an official tensor.

    The slice of the official tensor is transposed into our parameter. If RoPE rotates its rows,
    they are also permuted: the official layout has the two elements of a rotated pair side by side
    (0, 1, 2, 3, ...), ours has the first elements of all pairs of a head, then the second ones (0,
    2, ..., 1, 3, ...).

    Attributes:
      path: of our parameter, joined by dots.
      layer: index along its leading "layers" axis; None: it is not stacked.
      official_shape: shape of the slice of the official tensor.
      order: permutation of axes that transposes the slice into our parameter.
      rope_head_dim: head width, if the rows are those of heads that RoPE rotates; None: they are
        not.
    """

    path: str
    layer: int | None
    official_shape: tuple[int, ...]
    order: tuple[int, ...]
    rope_head_dim: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of our parameter, or of its layer."""
        return tuple(self.official_shape[i] for i in self.order)

    def official_rows(self, shard: ShardIndex) -> np.ndarray:
        """Return the rows of the official slice that a shard needs, in increasing order."""
        return np.sort(self._official_order(shard))

    def to_ours(self, rows: np.ndarray, shard: ShardIndex) -> np.ndarray:
        """Convert official rows to a shard of our parameter.

        Args:
          rows: the rows that `official_rows` returns.
          shard: index of the shard in our parameter.
        """
        x = rows.reshape(-1, *self.official_shape[1:])
        if self.rope_head_dim is not None:
            x = x.take(np.argsort(np.argsort(self._official_order(shard))), axis=0)
        cuts = [slice(None)] * len(self.official_shape)
        for axis, part in zip(self.order, shard, strict=True):
            if axis:
                cuts[axis] = slice(part.start, part.stop)
        return x[tuple(cuts)].transpose(self.order)

    def to_official(self, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Convert our parameter to the official slice, reshaped to `shape`."""
        x = ours.transpose(np.argsort(self.order))
        if self.rope_head_dim is not None:  # whole rows in C order: many times as fast
            x = to_contiguous(x).take(np.argsort(self._rope_order()), axis=0)
        return x.reshape(shape)

    def _official_order(self, shard: ShardIndex) -> np.ndarray:
        """Return a shard's rows of the official slice in the order of our rows."""
        part = shard[self.order.index(0)]
        return self._rope_order()[part.start : part.stop]

    def _rope_order(self) -> np.ndarray:
        rows = np.arange(self.official_shape[0])
        if self.rope_head_dim is None:
            return rows
        return rows.reshape(-1, self.rope_head_dim // 2, 2).swapaxes(1, 2).ravel()


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """One tensor of an official file: slices that are concatenated along `axis`."""

    name: str
    shape: tuple[int, ...]
    slices: tuple[ParamSlice, ...]
    axis: int = 0

    def iter_slices(self) -> Iterator[tuple[ParamSlice, tuple[slice, ...], tuple[int, ...]]]:
        """Yield each slice with its index in the official tensor and its shape there."""
        start = 0
        for part in self.slices:
            stop = start + part.official_shape[self.axis]
            where = [slice(None)] * len(self.shape)
            where[self.axis] = slice(start, stop)
            shape = tuple(stop - start if i == self.axis else n for i, n in enumerate(self.shape))
            yield part, tuple(where), shape
            start = stop


Table = dict[str, TensorEntry]


class _TableBuilder:
    """Adds entries for the types of modules that occur."""

    def __init__(self) -> None:
        self.table: Table = {}

    def add(self, name: str, shape: tuple[int, ...], *slices: ParamSlice, axis: int = 0) -> None:
        self.table[name] = TensorEntry(name, shape, slices, axis)

    def vector(self, name: str, path: str, size: int, layer: int | None = None) -> None:
        """Add a bias, a norm's scale, or another vector."""
        self.add(name, (size,), ParamSlice(path, layer, (size,), (0,)))

    def head_norm(self, name: str, path: str, width: int, layer: int) -> None:
        """Add the scale of a QK-norm, permuted as RoPE requires."""
        self.add(name, (width,), ParamSlice(path, layer, (width,), (0,), rope_head_dim=width))

    def layer_norm(self, name: str, path: str, size: int, layer: int) -> None:
        self.vector(f"{name}.weight", f"{path}.scale", size, layer)
        self.vector(f"{name}.bias", f"{path}.bias", size, layer)

    def linear(self, name: str, path: str, c_in: int, c_out: int, layer: int | None = None):
        """Add a linear layer: (out, in) <-> (in, out)."""
        kernel = ParamSlice(f"{path}.kernel", layer, (c_out, c_in), (1, 0))
        self.add(f"{name}.weight", (c_out, c_in), kernel)
        self.vector(f"{name}.bias", f"{path}.bias", c_out, layer)

    def qkv(self, name: str, path: str, d: int, layer: int, rope_head_dim: int | None) -> None:
        """Add a fused projection: (3 out, in) <-> `path`.q, .k and .v; RoPE rotates queries and
        keys.
        """
        kernels, biases = qkv_slices(path, d, layer, rope_head_dim)
        self.add(f"{name}.weight", (3 * d, d), *kernels)
        self.add(f"{name}.bias", (3 * d,), *biases)


def qkv_slices(
    path: str, d: int, layer: int, rope_head_dim: int | None
) -> tuple[list[ParamSlice], list[ParamSlice]]:
    """Return the slices of kernels and of biases of q, k and v."""
    rope = {"q": rope_head_dim, "k": rope_head_dim, "v": None}
    return (
        [ParamSlice(f"{path}.{x}.kernel", layer, (d, d), (1, 0), rope[x]) for x in rope],
        [ParamSlice(f"{path}.{x}.bias", layer, (d,), (0,), rope[x]) for x in rope],
    )


def model_table(config: ModelConfig) -> Table:
    """Return the table of connector and DiT, by official name, for these sizes and version."""
    b = _TableBuilder()
    _connector(b, config)
    _transformer(b, config)
    return b.table


def _connector(b: _TableBuilder, config: ModelConfig) -> None:
    c_in, d = config.connector_in_channels, config.connector_hidden_size
    b.linear("connector.S.t_embedder.mlp.0", "connector.t_embedder.in_layer", 256, d)
    b.linear("connector.S.t_embedder.mlp.2", "connector.t_embedder.out_layer", d, d)
    b.linear("connector.S.c_embedder.linear_1", "connector.c_embedder.in_layer", c_in, d)
    b.linear("connector.S.c_embedder.linear_2", "connector.c_embedder.out_layer", d, d)
    b.linear("connector.S.input_embedder", "connector.input_embedder", c_in, d)
    for i in range(config.connector_depth):
        name = f"connector.S.individual_token_refiner.blocks.{i}"
        path = "connector.blocks"
        b.layer_norm(f"{name}.norm1", f"{path}.norm1", d, i)
        b.qkv(f"{name}.self_attn_qkv", path, d, i, rope_head_dim=None)
        b.linear(f"{name}.self_attn_proj", f"{path}.proj", d, d, i)
        b.layer_norm(f"{name}.norm2", f"{path}.norm2", d, i)
        b.linear(f"{name}.mlp.fc1", f"{path}.mlp_in", d, 4 * d, i)
        b.linear(f"{name}.mlp.fc2", f"{path}.mlp_out", 4 * d, d, i)
        b.linear(f"{name}.adaLN_modulation.1", f"{path}.adaLN_modulation", d, 2 * d, i)
    b.linear("connector.global_proj_out", "connector.global_proj_out", c_in, config.vec_in_dim)
    if config.version == "v1.0":
        b.vector("connector.scale_factor", "connector.scale_factor", 1)


def _transformer(b: _TableBuilder, config: ModelConfig) -> None:
    d, f, k = config.hidden_size, config.mlp_dim, config.head_dim
    b.linear("img_in", "transformer.img_in", config.in_channels, d)
    b.linear("txt_in", "transformer.txt_in", config.context_in_dim, d)
    for name, c_in in (("time_in", 256), ("vector_in", config.vec_in_dim)):
        b.linear(f"{name}.in_layer", f"transformer.{name}.in_layer", c_in, d)
        b.linear(f"{name}.out_layer", f"transformer.{name}.out_layer", d, d)

    for i in range(config.depth):
        for stream in ("img", "txt"):
            name = f"double_blocks.{i}.{stream}"
            path = f"transformer.double_blocks.{stream}"
            b.linear(f"{name}_mod.lin", f"{path}.mod", d, 6 * d, i)
            b.qkv(f"{name}_attn.qkv", f"{path}.attn", d, i, rope_head_dim=k)
            for norm in ("query_norm", "key_norm"):
                b.head_norm(f"{name}_attn.norm.{norm}.scale", f"{path}.attn.{norm}.scale", k, i)
            b.linear(f"{name}_attn.proj", f"{path}.attn.proj", d, d, i)
            b.linear(f"{name}_mlp.0", f"{path}.mlp_in", d, f, i)
            b.linear(f"{name}_mlp.2", f"{path}.mlp_out", f, d, i)

    for i in range(config.depth_single_blocks):
        name, path = f"single_blocks.{i}", "transformer.single_blocks"
        b.linear(f"{name}.modulation.lin", f"{path}.modulation", d, 3 * d, i)
        qkv_kernels, qkv_biases = qkv_slices(f"{path}.attn", d, i, rope_head_dim=k)
        mlp_kernel = ParamSlice(f"{path}.mlp_in.kernel", i, (f, d), (1, 0))
        mlp_bias = ParamSlice(f"{path}.mlp_in.bias", i, (f,), (0,))
        b.add(f"{name}.linear1.weight", (3 * d + f, d), *qkv_kernels, mlp_kernel)
        b.add(f"{name}.linear1.bias", (3 * d + f,), *qkv_biases, mlp_bias)
        proj = ParamSlice(f"{path}.attn.proj.kernel", i, (d, d), (1, 0))
        mlp_out = ParamSlice(f"{path}.mlp_out.kernel", i, (d, f), (1, 0))
        b.add(f"{name}.linear2.weight", (d, d + f), proj, mlp_out, axis=1)
        b.vector(f"{name}.linear2.bias", f"{path}.attn.proj.bias", d, i)
        for norm in ("query_norm", "key_norm"):
            b.head_norm(f"{name}.norm.{norm}.scale", f"{path}.attn.{norm}.scale", k, i)

    path = "transformer.final_layer.adaLN_modulation"
    b.linear("final_layer.adaLN_modulation.1", path, d, 2 * d)
    b.linear("final_layer.linear", "transformer.final_layer.linear", d, config.in_channels)


def autoencoder_table(abstract: nnx.State) -> Table:
    """Return the autoencoder's table; paths are the official names, kernels are (out, in, h, w).

    Args:
      abstract: the autoencoder's state, arrays or shapes.
    """
    b = _TableBuilder()
    for path, leaf in flatten_params(abstract).items():
        module, _, kind = path.rpartition(".")
        name = f"{module}.{'bias' if kind == 'bias' else 'weight'}"
        if len(leaf.shape) == 4:
            height, width, c_in, c_out = leaf.shape
            shape = (c_out, c_in, height, width)
            b.add(name, shape, ParamSlice(path, None, shape, (2, 3, 1, 0)))
        else:
            b.add(name, leaf.shape, ParamSlice(path, None, leaf.shape, (0,)))
    return b.table


def join_path(path: Iterable[str | int]) -> str:
    """Join an nnx path by dots: transformer.img_in.kernel."""
    return ".".join(map(str, path))


def flatten_params(state: nnx.State) -> dict[str, nnx.Variable]:
    """Return our parameters by path."""
    leaves: Iterable[Any] = nnx.to_flat_state(state)
    return {join_path(path): leaf for path, leaf in leaves}


def slices_by_parameter(table: Table) -> dict[str, list[tuple[ParamSlice, str, tuple[slice, ...]]]]:
    """Return for each of our parameters the slices that fill it, with official name and index."""
    result: dict[str, list[tuple[ParamSlice, str, tuple[slice, ...]]]] = {}
    for entry in table.values():
        for part, where, _ in entry.iter_slices():
            result.setdefault(part.path, []).append((part, entry.name, where))
    return result
