"""Tiny random parts of diffusers' pipelines."""

import string

CLIP_WIDTH, T5_WIDTH = 16, 24


def clip_parts(kind):
    """Text encoder of a class, and its tokenizer."""
    import transformers

    letters = [*string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters]
    config = transformers.CLIPTextConfig(
        vocab_size=len(names), hidden_size=CLIP_WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=CLIP_WIDTH, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = transformers.CLIPTokenizer(ids, [], model_max_length=77)
    return getattr(transformers, kind)(config), tokenizer


def t5_parts(width=T5_WIDTH):
    """Likewise of T5."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -2.0) for letter in string.ascii_letters]
    config = T5Config(vocab_size=100, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config), T5TokenizerFast(vocab=pieces, extra_ids=0)


def autoencoder(channels=4):
    """Eight pixels a side of a latent one."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4, sample_size=64, use_quant_conv=False, use_post_quant_conv=False,
        shift_factor=0.1, scaling_factor=0.3,
    )  # fmt: skip
