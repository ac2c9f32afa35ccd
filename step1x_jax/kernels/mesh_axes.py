"""Names of the mesh's axes, for code that reads the ambient mesh (jax.set_mesh)."""

BATCH_AXES = ("data", "fsdp")  # over which a batch is split
SEQUENCE_AXIS = "sequence"  # tokens
TENSOR_AXIS = "tensor"  # heads
