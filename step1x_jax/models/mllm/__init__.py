"""Qwen2.5-VL, a multimodal language model, as the frozen text encoder."""
