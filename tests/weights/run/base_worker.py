"""One process of several that open a run of adapters: python -m tests.weights.run.base_worker PORT
COUNT INDEX RUN BASE. Prints the error, or that the model's shards equal the whole model's."""

import sys

import jax
import numpy as np
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.weights.load import load_model
from step1x_jax.weights.lora.merging import Merged
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.reader import RunFolder
from tests.weights.models import published


def main(port: str, count: int, index: int, run: str, base: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    try:
        weights = open_weights(run, base=base)
        model = load_model(weights, mesh=make_mesh(MeshConfig(fsdp=-1)))
    except UserError as e:
        print("RESULT", e)
        return
    whole = Merged(open_weights(base).tensors, [(RunFolder(run).adapters(), 1.0)])
    assert {x.sharding.num_devices for x in jax.tree.leaves(nnx.state(model))} == {4}
    gathered = jax.tree.map(
        lambda x: jax.experimental.multihost_utils.process_allgather(x, tiled=True),
        nnx.state(model),
    )
    found = published(model.config, gathered)
    for name in found.shapes:
        np.testing.assert_array_equal(found.read(name), whole.read(name), err_msg=name)
    print("RESULT same")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
