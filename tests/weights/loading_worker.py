"""One process of several that load a model: python -m tests.weights.loading_worker PORT COUNT INDEX
FILE. Prints what it read and held as JSON."""

import contextlib
import json
import sys
import tracemalloc

import jax
import numpy as np
from flax import nnx

from step1x_jax.models.config import ModelConfig, tiny
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.parallel.rules import shardings
from step1x_jax.weights.files.safetensors_io import SafetensorsFile
from step1x_jax.weights.filling import set_shardings
from step1x_jax.weights.load import load_parameters
from step1x_jax.weights.open import open_weights
from tests.weights.models import load_as, parameters_as


def wide_config() -> ModelConfig:
    """33 M parameters, few of them outside the blocks."""
    return override(
        tiny(),
        {
            "hidden_size": 512,
            "num_heads": 8,
            "axes_dim": (16, 24, 24),
            "depth": 2,
            "depth_single_blocks": 4,
            "param_dtype": "bfloat16",
        },
    )


def placed_at(config, mesh) -> nnx.State:
    return shardings(abstract_model(config)[1], mesh)


@contextlib.contextmanager
def counted():
    """Records (tensor, begin, end) of what is read, in bytes from the tensor's begin."""
    reads = []
    original = SafetensorsFile._bytes

    def count(self, name, begin, end):
        first = self._tensors[name].begin
        reads.append((name, begin - first, end - first))
        return original(self, name, begin, end)

    SafetensorsFile._bytes = count
    try:
        yield reads
    finally:
        SafetensorsFile._bytes = original


def peak_beside_the_model(path, config, places) -> int:
    """Peak of the bytes that numpy and Python held (JAX may reuse numpy's memory for an array)."""

    def drop(_, variable):
        variable.get_value().delete()
        return {}

    wanted = set_shardings(abstract_model(config)[1], places)
    tracemalloc.start()
    try:
        load_parameters(open_weights(path, sizes=config), wanted, drop)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main(port: str, count: int, index: int, path: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    config = wide_config()
    places = placed_at(config, make_mesh(MeshConfig(fsdp=-1)))
    with counted() as reads:
        split = parameters_as(path, config, places=places)
    peak = peak_beside_the_model(path, config, places)
    whole = nnx.state(load_as(path, config))
    for x, want in zip(*map(jax.tree.leaves, (split, whole)), strict=True):
        assert len(x.sharding.device_set) == jax.device_count()
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(shard.data, want[shard.index])
    print("RESULT", json.dumps({"reads": reads, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
