"""The one place that knows the published layout: a two-way table between its tensors and ours.

An `Entry` is one tensor of the official file; its `parts` say which of our parameters hold it and
how. A part is cut out along one axis, its rows are permuted for RoPE, and it is transposed: moves
of numbers only, so both directions are exact to the bit. Values are never computed here.

Another layout of the same model would be another function from a config to a Table, beside
`model_table`, or a list of moves between its tensors and the official ones (diffusers.py).

Legend: D model width, F mlp width, K head width, C other widths.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from flax import nnx

from step1x_jax.models.config import ModelConfig
from step1x_jax.weights.copying import in_order

Box = tuple[range, ...]  # a part of an array: what it takes of each axis, without gaps


@dataclasses.dataclass(frozen=True)
class ParamSlice:
    """How one of our parameters (or one layer of a stacked one) is stored in an official tensor.

    The official piece is transposed into ours. Where RoPE turns its rows, these are in another
    order besides: a head has pairs side by side there (0, 1, 2, 3, ...), and in ours first the
    first of each pair, then the second (0, 2, ..., 1, 3, ...).
    """

    path: str  # of our parameter, joined by dots
    layer: int | None  # index along its leading "layers" axis
    piece: tuple[int, ...]  # shape of the official piece
    order: tuple[int, ...]  # transposes it into our axes
    rotated: int | None = None  # head width, if its rows are those of heads that RoPE turns

    @property
    def shape(self) -> tuple[int, ...]:
        """Our shape."""
        return tuple(self.piece[i] for i in self.order)

    def rows_of(self, box: Box) -> np.ndarray:
        """Which rows of the official piece a box of ours is made of, increasing."""
        return np.sort(self._rows(box))

    def to_ours(self, rows: np.ndarray, box: Box) -> np.ndarray:
        """A box of ours from those rows of the official piece that `rows_of` names."""
        x = rows.reshape(-1, *self.piece[1:])
        if self.rotated is not None:
            x = x.take(np.argsort(np.argsort(self._rows(box))), axis=0)
        cuts = [slice(None)] * len(self.piece)
        for axis, part in zip(self.order, box, strict=True):
            if axis:
                cuts[axis] = slice(part.start, part.stop)
        return x[tuple(cuts)].transpose(self.order)

    def to_official(self, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Our parameter as the official piece of `shape`."""
        x = ours.transpose(np.argsort(self.order))
        if self.rotated is not None:  # in memory's order, whole rows move: many times as fast
            x = in_order(x).take(np.argsort(self._turned()), axis=0)
        return x.reshape(shape)

    def _rows(self, box: Box) -> np.ndarray:
        """The rows of the official piece in the order of ours."""
        part = box[self.order.index(0)]
        return self._turned()[part.start : part.stop]

    def _turned(self) -> np.ndarray:
        rows = np.arange(self.piece[0])
        if self.rotated is None:
            return rows
        return rows.reshape(-1, self.rotated // 2, 2).swapaxes(1, 2).ravel()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of an official file; several parts follow each other along `axis`."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[ParamSlice, ...]
    axis: int = 0

    def pieces(self) -> Iterator[tuple[ParamSlice, tuple[slice, ...], tuple[int, ...]]]:
        """Each part with its slice of the official tensor and that slice's shape."""
        start = 0
        for part in self.parts:
            stop = start + part.piece[self.axis]
            where = [slice(None)] * len(self.shape)
            where[self.axis] = slice(start, stop)
            shape = tuple(stop - start if i == self.axis else n for i, n in enumerate(self.shape))
            yield part, tuple(where), shape
            start = stop


Table = dict[str, Entry]


class _Builder:
    """Collects entries for modules of the kinds that occur."""

    def __init__(self) -> None:
        self.table: Table = {}

    def add(self, name: str, shape: tuple[int, ...], *parts: ParamSlice, axis: int = 0) -> None:
        self.table[name] = Entry(name, shape, parts, axis)

    def vector(self, name: str, path: str, size: int, layer: int | None = None) -> None:
        """A bias, a norm's scale, or another plain vector."""
        self.add(name, (size,), ParamSlice(path, layer, (size,), (0,)))

    def head_norm(self, name: str, path: str, width: int, layer: int) -> None:
        """The scale of a QK-norm, in RoPE order."""
        self.add(name, (width,), ParamSlice(path, layer, (width,), (0,), rotated=width))

    def layer_norm(self, name: str, path: str, size: int, layer: int) -> None:
        self.vector(f"{name}.weight", f"{path}.scale", size, layer)
        self.vector(f"{name}.bias", f"{path}.bias", size, layer)

    def linear(self, name: str, path: str, c_in: int, c_out: int, layer: int | None = None):
        """(out, in) <-> (in, out)."""
        kernel = ParamSlice(f"{path}.kernel", layer, (c_out, c_in), (1, 0))
        self.add(f"{name}.weight", (c_out, c_in), kernel)
        self.vector(f"{name}.bias", f"{path}.bias", c_out, layer)

    def qkv(self, name: str, path: str, d: int, layer: int, rotated: int | None) -> None:
        """(3 * out, in) <-> `path`.q, .k and .v; `rotated` for queries and keys."""
        kernels, biases = qkv_parts(path, d, layer, rotated)
        self.add(f"{name}.weight", (3 * d, d), *kernels)
        self.add(f"{name}.bias", (3 * d,), *biases)


def qkv_parts(
    path: str, d: int, layer: int, rotated: int | None
) -> tuple[list[ParamSlice], list[ParamSlice]]:
    """Kernels and biases of q, k and v, of which the official tensors are made."""
    turned = {"q": rotated, "k": rotated, "v": None}
    return (
        [ParamSlice(f"{path}.{x}.kernel", layer, (d, d), (1, 0), turned[x]) for x in turned],
        [ParamSlice(f"{path}.{x}.bias", layer, (d,), (0,), turned[x]) for x in turned],
    )


def model_table(config: ModelConfig) -> Table:
    """Connector and DiT: official name -> entry, for these sizes and version."""
    b = _Builder()
    _connector(b, config)
    _transformer(b, config)
    return b.table


def _connector(b: _Builder, config: ModelConfig) -> None:
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
        b.qkv(f"{name}.self_attn_qkv", path, d, i, rotated=None)
        b.linear(f"{name}.self_attn_proj", f"{path}.proj", d, d, i)
        b.layer_norm(f"{name}.norm2", f"{path}.norm2", d, i)
        b.linear(f"{name}.mlp.fc1", f"{path}.mlp_in", d, 4 * d, i)
        b.linear(f"{name}.mlp.fc2", f"{path}.mlp_out", 4 * d, d, i)
        b.linear(f"{name}.adaLN_modulation.1", f"{path}.adaLN_modulation", d, 2 * d, i)
    b.linear("connector.global_proj_out", "connector.global_proj_out", c_in, config.vec_in_dim)
    if config.version == "v1.0":
        b.vector("connector.scale_factor", "connector.scale_factor", 1)


def _transformer(b: _Builder, config: ModelConfig) -> None:
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
            b.qkv(f"{name}_attn.qkv", f"{path}.attn", d, i, rotated=k)
            for norm in ("query_norm", "key_norm"):
                b.head_norm(f"{name}_attn.norm.{norm}.scale", f"{path}.attn.{norm}.scale", k, i)
            b.linear(f"{name}_attn.proj", f"{path}.attn.proj", d, d, i)
            b.linear(f"{name}_mlp.0", f"{path}.mlp_in", d, f, i)
            b.linear(f"{name}_mlp.2", f"{path}.mlp_out", f, d, i)

    for i in range(config.depth_single_blocks):
        name, path = f"single_blocks.{i}", "transformer.single_blocks"
        b.linear(f"{name}.modulation.lin", f"{path}.modulation", d, 3 * d, i)
        qkv_kernels, qkv_biases = qkv_parts(f"{path}.attn", d, i, rotated=k)
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
    """Autoencoder: our paths are the official names; convolutions are (out, in, h, w) there.

    Args:
      abstract: the autoencoder's state, arrays or shapes.
    """
    b = _Builder()
    for path, leaf in flat(abstract).items():
        module, _, kind = path.rpartition(".")
        name = f"{module}.{'bias' if kind == 'bias' else 'weight'}"
        if len(leaf.shape) == 4:
            height, width, c_in, c_out = leaf.shape
            shape = (c_out, c_in, height, width)
            b.add(name, shape, ParamSlice(path, None, shape, (2, 3, 1, 0)))
        else:
            b.add(name, leaf.shape, ParamSlice(path, None, leaf.shape, (0,)))
    return b.table


def dotted(path: Iterable[str | int]) -> str:
    """A path of nnx as we write it: transformer.img_in.kernel."""
    return ".".join(map(str, path))


def flat(state: nnx.State) -> dict[str, nnx.Variable]:
    """Our parameters by path."""
    leaves: Iterable[Any] = nnx.to_flat_state(state)
    return {dotted(path): leaf for path, leaf in leaves}


def by_parameter(table: Table) -> dict[str, list[tuple[ParamSlice, str, tuple[slice, ...]]]]:
    """For each of our parameters the parts that fill it, with official name and slice."""
    result: dict[str, list[tuple[ParamSlice, str, tuple[slice, ...]]]] = {}
    for entry in table.values():
        for part, where, _ in entry.pieces():
            result.setdefault(part.path, []).append((part, entry.name, where))
    return result
