"""Contents of judge.json: how a judge was asked, and other facts about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.asking.cache import ReplyCache
from step1x_jax.asking.exchange import Served
from step1x_jax.errors import UserError
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.files import is_file
from step1x_jax.json_files import read_json, shown

ANOTHER = "give another --judge_name"  # to judge in another folder


def check_same_judge(
    file: epath.Path, settings: Mapping[str, Any], names: Sequence[str], what: str
) -> dict[str, Any]:
    """Compare how a judge is asked with how it was.

    Args:
      file: the judge.json of a folder; it need not be there.
      settings: how it is asked now.
      names: of those in which everything in the folder has to agree.
      what: is there, for people.

    Returns:
      What the file says; nothing if there is none.

    Raises:
      UserError: one of these differs.
    """
    if not is_file(file):
        return {}
    there = read_json(file)
    for name in names:
        if there.get(name) != settings[name]:
            raise UserError(
                f"{file.parent} has {what} with {name} {shown(there.get(name))}, and now it is"
                f" {shown(settings[name])}; {ANOTHER}, or remove that folder."
            )
    return there


def judge_facts(
    preset: JudgePreset, prompts: str, cache: ReplyCache, served: Served
) -> dict[str, Any]:
    """Collect the facts from all its replies and its server.

    Args:
      preset: the judge's.
      prompts: whose words it was asked in; "none" if in none.
      cache: its replies.
      served: what its server says.

    Returns:
      Values of JSON, null where nobody says.
    """
    replies = cache.every()

    def each(name: str) -> str | None:
        return ", ".join(sorted({getattr(reply, name) for reply in replies} - {""})) or None

    days = sorted({reply.time[:10] for reply in replies})
    return {
        "model": preset.model,
        "served_model": each("model"),
        "endpoint": each("host"),
        "provider": each("provider") or served.provider or None,
        "quantisation": served.quantisation or None,
        "shutdown_date": served.shutdown_date or None,
        "prompts": prompts,
        "date": " to ".join(dict.fromkeys(days[:1] + days[-1:])),
    }
