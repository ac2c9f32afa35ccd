"""A small Qwen2.5-VL with random weights as the text encoder of the quickstart.

It replaces the release's Qwen2.5-VL-7B: the same classes read the same prompt in a millisecond. Its
weights are not trained. Random features distinguish words, which is enough for the quickstart's
instructions. It does not generalize to a paraphrase that shares no words with them.

The result is an ordinary Hugging Face folder.
"""

import json
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from step1x_jax.conditioning.prompt import CHAT_AFTER_INSTRUCTION, CHAT_BEFORE_IMAGE, CHAT_START
from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.models.mllm.config import mllm_from_json
from step1x_jax.weights.files.safetensors_io import write_safetensors
from step1x_jax.weights.layouts.qwen import mllm_table
from step1x_jax.weights.readers import InMemory

# Qwen's special tokens, in the order of their ids.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen's pre-tokenizer: English contractions, a word with at most one leading punctuation mark,
# single digits, runs of punctuation, line ends, spaces.
PRE_TOKENIZER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

VOCABULARY = 1400  # maximum; training ends earlier if every word is one token

HIDDEN = 128
PATCH = 14
MERGE = 2
MIN_PIXELS = 4 * 28 * 28  # a picture of 128 px has 25 tokens; with the release's limit 256
MAX_PIXELS = 324 * 28 * 28

TOKENIZER_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 4096,
}
PREPROCESSOR_CONFIG = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": MIN_PIXELS,
    "max_pixels": MAX_PIXELS,
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
    # CLIP's statistics, as in the release.
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

SEED = 0
# Scales of the random weights relative to 1 / sqrt(fan-in). Small residual branches keep a word
# recognizable at its position. Large queries and keys make attention selective. Small picture
# features keep the mean over all tokens from being dominated by the picture.
RESIDUAL_SCALE = 0.7
QUERY_KEY_SCALE = 2.0
PICTURE_SCALE = 0.1


def template_texts() -> list[str]:
    """Return the constant texts of the published prompt, without its special tokens.

    They are also split after the prefix, whose hidden states are dropped: no merge may span it.
    """
    texts = (
        CHAT_START,
        CHAT_BEFORE_IMAGE.removeprefix(CHAT_START),
        CHAT_AFTER_INSTRUCTION,
    )
    return [piece for text in texts for piece in re.split(r"<\|\w+\|>", text) if piece]


def train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE tokenizer like Qwen's on the prompt and the quickstart's instructions.

    Order of ids: bytes (0 is "!", as in Qwen's vocabulary), merges, special tokens. The result is
    deterministic.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    phrasings = [text for wordings in PLAIN_TEMPLATES.values() for text in wordings["en"]]
    # Chinese has no spaces between words. Split into characters, no phrase becomes a single token,
    # so that paraphrases share tokens.
    phrasings += [
        character for wordings in PLAIN_TEMPLATES.values() for character in "".join(wordings["cn"])
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Instructions have a higher weight, so that their words become single tokens first.
    tokenizer.train_from_iterator(template_texts() * 2 + phrasings * 3, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Build the content of config.json, with two language layers and two vision layers."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 4096,
            # Time, height and width share a head's 16 frequencies as 2 : 3 : 3, as in the release.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": 2,
            "hidden_size": HIDDEN // 2,
            "intermediate_size": HIDDEN,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,  # no text is generated, so an output head would be unused
    }


def random_weight(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draw random values for one parameter of the model.

    Args:
      name: the parameter's name in the published file.
      shape: its shape; matrices are (out, in).
      generator: source of randomness.

    Returns:
      float32 of that shape.
    """
    values = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith(("embed_tokens.weight", "merger.mlp.2.bias")):
        return values  # the bias marks all picture tokens alike
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:  # the scales of the norms
        return np.ones(shape, np.float32)
    values /= np.sqrt(np.prod(shape[1:], dtype=np.float32))
    if name.endswith(("o_proj.weight", "attn.proj.weight", "down_proj.weight")):
        values *= RESIDUAL_SCALE
    elif name.endswith(("q_proj.weight", "k_proj.weight")):
        values *= QUERY_KEY_SCALE
    elif name.endswith("merger.mlp.2.weight"):
        values *= PICTURE_SCALE
    return values


def write_encoder(folder: epath.PathLike) -> None:
    """Make the encoder and write it as a Hugging Face folder with weights in bfloat16.

    Args:
      folder: the folder to write; an existing one is replaced once the new one is complete.
    """
    tokenizer = train_tokenizer()
    config = model_config(tokenizer)
    table = mllm_table(mllm_from_json(config, "the small encoder"), newer=False)
    generator = np.random.default_rng(SEED)
    weights = {
        name: random_weight(name, table[name].shape, generator).astype(jnp.bfloat16)
        for name in sorted(table)
    }

    folder = epath.Path(folder)
    unfinished = folder.parent / f".{folder.name}.unfinished"
    if unfinished.exists():
        unfinished.rmtree()
    unfinished.mkdir(parents=True)
    write_safetensors(unfinished / "model.safetensors", InMemory(weights, {"format": "pt"}))
    tokenizer.save(str(unfinished / "tokenizer.json"))
    for file, settings in (
        ("config.json", config),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
        ("preprocessor_config.json", PREPROCESSOR_CONFIG),
    ):
        (unfinished / file).write_text(json.dumps(settings, indent=2) + "\n")
    if folder.exists():
        folder.rmtree()
    unfinished.rename(folder)
