"""What the backward pass finds stored, and what it computes again: policies by name.

The input of a block is always stored. Names are given with `checkpoint_name` where a value is made:
the attention's output (and the sums of its softmax) in kernels/, the others in transformer.py.
"""

from collections.abc import Callable

import jax

from step1x_jax.errors import UserError
from step1x_jax.kernels.flash import ATTENTION
from step1x_jax.kernels.platform import platform

QKV = "qkv"  # queries, keys and values as projected
MLP = "mlp"  # what goes into the GELU
GATED = "gated"  # what a gate multiplies: its gradient needs it, and it comes of two large matmuls

# policy -> names that are stored, in order of what they save: what is not stored costs its matmuls
# once more
SAVED: dict[str, tuple[str, ...]] = {
    "full": (),
    "attention": (ATTENTION, GATED),
    "attention_qkv": (ATTENTION, GATED, QKV),
    "attention_mlp": (ATTENTION, GATED, MLP),
    "attention_qkv_mlp": (ATTENTION, GATED, QKV, MLP),
}
OFFLOAD = "offload"  # as the last one, in the host's memory
AUTO = "auto"  # the last of SAVED that fits: training/step/remat_choice.py


def stored_widths(policy: str, *, double: bool) -> int:
    """How many times D a token of a block stores under a policy of SAVED, its input among them."""
    widths = {ATTENTION: 1, GATED: 2 if double else 1, QKV: 3, MLP: 4}
    return 1 + sum(widths[name] for name in SAVED[policy])


def checkpointed(layer: Callable, policy: str) -> Callable:
    """`layer` with a policy of choices.REMAT ("none": all that the backward pass wants is stored).

    Raises:
      UserError: "offload" where the devices cannot copy to the host within a program.
    """
    if policy == "none":
        return layer
    if policy == AUTO:  # where nobody chose: a forward pass, or a model by itself
        policy = "full"
    if policy in SAVED:
        names = jax.checkpoint_policies.save_only_these_names(*SAVED[policy])
        return jax.checkpoint(layer, policy=names)
    if platform() == "cpu":
        raise UserError(
            "model.remat 'offload' needs a TPU or GPU, whose program can store in the host's"
            f" memory; use one of {', '.join(SAVED)}."
        )
    offloaded = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(SAVED["attention_qkv_mlp"]),
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(layer, policy=offloaded)
