"""Names of the mesh axes, for code that reads the ambient mesh (jax.set_mesh)."""

BATCH_AXES = ("data", "fsdp")  # the batch is sharded over both
SEQUENCE_AXIS = "sequence"  # tokens are sharded over it
TENSOR_AXIS = "tensor"  # attention heads and MLP widths are sharded over it
