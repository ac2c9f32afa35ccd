"""Pictures a second through Qwen2.5-VL: ours, and transformers on torch in the same run.

Full-size random weights; what is timed begins with patches and token ids on the host and ends with
hidden states there. A picture has 18 x 18 tokens, the release's most, and the prompt 600.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx

from launch.benches.clock import median_seconds
from launch.shared.number_list import define_number_list
from step1x_jax.conditioning.encoder import LanguageModelBackend
from step1x_jax.conditioning.encoder_jax import JaxLanguageModel
from step1x_jax.conditioning.encoder_torch import TorchLanguageModel
from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.models.mllm.config import LanguageConfig, MLLMConfig, VisionConfig
from step1x_jax.models.mllm.model import abstract_mllm

_BATCHES = define_number_list("batch_sizes", [1, 8, 32], "Pictures at once.")
_TINY = flags.DEFINE_bool("tiny", False, "Small sizes, to try the command itself.")

SIDE, TOKENS = 36, 600  # patches along a side of the picture; tokens of the prompt
TINY = MLLMConfig(
    vision=VisionConfig(depth=2, hidden_size=32, intermediate_size=64, num_heads=2,
                        fullatt_block_indexes=(1,), out_hidden_size=64),
    language=LanguageConfig(vocab_size=512, hidden_size=64, intermediate_size=128,
                            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                            mrope_section=(2, 3, 3)),
    image_token_id=500,
)  # fmt: skip


def rows() -> Iterator[dict[str, Any]]:
    """One row for each implementation and batch size."""
    config = TINY if _TINY.value else MLLMConfig()
    speed: dict[int, float] = {}
    for name, make in (("jax", random_jax), ("transformers", random_torch)):
        model = make(config)
        if model is None:
            yield {"encoder": name, "skipped": "needs torch, with CUDA unless --tiny"}
            continue
        for batch in _BATCHES.value:
            inputs = examples(batch, config)
            seconds = median_seconds(partial(_run, model, inputs))
            row: dict[str, Any] = {"encoder": name, "batch": batch, "pictures/s": batch / seconds}
            if batch in speed:
                row["jax is faster by"] = speed[batch] / row["pictures/s"]
            speed.setdefault(batch, row["pictures/s"])
            yield row
        del model  # one at a time: each has 15 GB


def _run(model: LanguageModelBackend, inputs: Any) -> np.ndarray:
    return np.asarray(model(*inputs))


def examples(
    batch: int, config: MLLMConfig
) -> tuple[list[PicturePatches], Sequence[Sequence[int]]]:
    """Pictures of noise and prompts of ones."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((SIDE * SIDE, config.vision.patch_width), np.float32)
    picture = PicturePatches(patches, np.array([1, SIDE, SIDE]))
    ids = [1] * 240 + [config.image_token_id] * picture.tokens
    return [picture] * batch, [ids + [1] * (TOKENS - len(ids))] * batch


def random_jax(config: MLLMConfig) -> LanguageModelBackend:
    """Ours, made on the device."""
    graph, params = abstract_mllm(config)

    @jax.jit
    def values(key):
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        pairs = zip(keys, leaves, strict=True)
        drawn = [0.02 * jax.random.normal(k, x.shape, x.dtype) for k, x in pairs]
        return jax.tree.unflatten(tree, drawn)

    return JaxLanguageModel(nnx.merge(graph, values(jax.random.key(0))))


def random_torch(config: MLLMConfig) -> LanguageModelBackend | None:
    """Make transformers' model, with flash attention where it is installed, else torch's own."""
    try:
        import torch
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel
        from transformers.utils import is_flash_attn_2_available
    except ImportError:
        return None
    if not (torch.cuda.is_available() or _TINY.value):
        return None
    vision, language = config.vision, config.language
    fields = vars(language) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": language.rope_theta,
            "mrope_section": list(language.mrope_section),
        }
    }
    theirs: Any = Qwen2_5_VLConfig(
        text_config={k: v for k, v in fields.items() if k not in ("rope_theta", "mrope_section")},
        vision_config=vars(vision) | {"fullatt_block_indexes": list(vision.fullatt_block_indexes)},
        image_token_id=config.image_token_id,
    )
    theirs._attn_implementation = "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        try:
            return TorchLanguageModel(Qwen2_5_VLModel(theirs))
        finally:
            torch.set_default_dtype(torch.float32)
