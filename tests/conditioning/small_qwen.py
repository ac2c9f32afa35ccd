"""A tiny Qwen2.5-VL folder of the real layout, with random weights, for tests."""

from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from step1x_jax.conditioning.prompt import CHAT_AFTER_INSTRUCTION, CHAT_BEFORE_IMAGE
from step1x_jax.json_files import write_json
from step1x_jax.models.mllm.config import mllm_from_json
from step1x_jax.weights.layouts.qwen import mllm_table

SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HIDDEN = 32


def small_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE with a few merges; as in Qwen's, id 0 is "!"."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CHAT_BEFORE_IMAGE, CHAT_AFTER_INSTRUCTION, "“ ”"], trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def make_folder(folder: Path, layers: int = 2) -> Path:
    """Writes config.json, model.safetensors, tokenizer.json and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": HIDDEN,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1],
            },
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": HIDDEN, "fullatt_block_indexes": [1],
        },
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }  # fmt: skip
    write_json(folder / "config.json", config)
    rng = np.random.default_rng(0)
    table = mllm_table(mllm_from_json(config, "small"), newer=False)
    weights = {name: rng.normal(0, 0.2, e.shape).astype(np.float32) for name, e in table.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    return folder
