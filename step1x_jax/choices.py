"""Names that configs may give, of what files further up implement.

They are here so that a config, which has to know them, loads none of that.
"""

# Of attention: kernels/attention.py.
ATTENTION = ("xla", "pallas_tpu", "pallas_gpu", "cudnn")
# What of a block's forward pass is saved for the backward pass: models/remat.py.
REMAT = (
    "auto",
    "none",
    "full",
    "attention",
    "attention_qkv",
    "attention_mlp",
    "attention_qkv_mlp",
    "offload",
)
# Of weights in 8 bits: models/eight_bits.py.
EIGHT_BITS = ("int8", "fp8")
