"""Step1X-Edit in JAX: an instruction-based image editor, trained and sampled on TPUs and GPUs."""

import flax

# Variables carry logical axis names; shardings are applied by jit(out_shardings=...), never at
# construction, because nothing in models/ knows a mesh.
flax.config.update("flax_always_shard_variable", False)

__version__ = "0.1.0"
