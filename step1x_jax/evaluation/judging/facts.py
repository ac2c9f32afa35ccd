"""What is to be known of a judge besides how it was asked: for judge.json, and footers."""

from typing import Any

from step1x_jax.evaluation.judging.cache import ReplyCache
from step1x_jax.evaluation.judging.exchange import Served
from step1x_jax.evaluation.judging.presets import JudgePreset


def judge_facts(
    preset: JudgePreset, prompts: str, cache: ReplyCache, served: Served
) -> dict[str, Any]:
    """What all its replies and its server say.

    Args:
      preset: the judge's.
      prompts: whose words it was asked in; "" if in none.
      cache: its replies.
      served: what its server says.

    Returns:
      Values of JSON.
    """
    replies = cache.every()

    def each(name: str) -> str:
        return ", ".join(sorted({getattr(reply, name) for reply in replies} - {""}))

    days = sorted({reply.time[:10] for reply in replies})
    return {
        "model": preset.model,
        "served_model": each("model"),
        "endpoint": each("host"),
        "provider": each("provider") or served.provider,
        "quantisation": served.quantisation,
        "shutdown_date": served.shutdown_date,
        "prompts": prompts,
        "date": " to ".join(dict.fromkeys(days[:1] + days[-1:])),
    }
