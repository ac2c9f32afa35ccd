"""Qwen2.5-VL, the multimodal language model, as a frozen encoder."""
