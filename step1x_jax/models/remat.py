"""Rematerialization policies: which intermediates are saved for the backward pass.

The input of a block is always saved. Intermediates are named by `checkpoint_name` where they are
computed: the attention output and its log-sum-exp in kernels/, the others in transformer.py and
connector.py.
"""

from collections.abc import Callable

import jax

from step1x_jax.errors import UserError
from step1x_jax.kernels.flash import ATTENTION
from step1x_jax.kernels.platform import platform

QKV = "qkv"  # projected queries, keys and values
MLP = "mlp"  # the input of the MLP's activation function
GATED = "gated"  # the input of a gate: needed for its gradient, and the output of large matmuls

# Policy -> names that are saved, from the least to the most memory. What is not saved costs its
# matmuls once more.
SAVED: dict[str, tuple[str, ...]] = {
    "full": (),
    "attention": (ATTENTION, GATED),
    "attention_qkv": (ATTENTION, GATED, QKV),
    "attention_mlp": (ATTENTION, GATED, MLP),
    "attention_qkv_mlp": (ATTENTION, GATED, QKV, MLP),
}
OFFLOAD = "offload"  # as the last one, but saved in the host's memory
AUTO = "auto"  # the last of SAVED that fits; see training/step/remat_choice.py


def count_saved_widths(policy: str, *, double: bool) -> int:
    """Return how many numbers a block saves per token, in units of D, including its input.

    Args:
      policy: a key of SAVED.
      double: whether it is a double block.
    """
    widths = {ATTENTION: 1, GATED: 2 if double else 1, QKV: 3, MLP: 4}
    return 1 + sum(widths[name] for name in SAVED[policy])


def apply_remat(layer: Callable, policy: str) -> Callable:
    """Wrap `layer` with a policy of choices.REMAT ("none": everything needed is saved).

    Raises:
      UserError: the policy is "offload" and the platform cannot offload within a program.
    """
    if policy == "none":
        return layer
    if policy == AUTO:  # not resolved: a forward pass, or a model outside of training
        policy = "full"
    if policy in SAVED:
        names = jax.checkpoint_policies.save_only_these_names(*SAVED[policy])
        return jax.checkpoint(layer, policy=names)
    if platform() == "cpu":
        raise UserError(
            "model.remat 'offload' needs a TPU or GPU, which can save arrays in the host's"
            f" memory; use one of {', '.join(SAVED)}."
        )
    offloaded = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(SAVED["attention_qkv_mlp"]),
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(layer, policy=offloaded)
