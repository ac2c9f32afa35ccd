"""From a judge's name to the judge."""

import contextlib
import dataclasses
from collections.abc import Iterator

from step1x_jax.asking.ask import AskLimits
from step1x_jax.asking.chat import ChatClient
from step1x_jax.asking.exchange import Respondent
from step1x_jax.evaluation.judging.functions import FunctionJudge
from step1x_jax.evaluation.judging.presets import IN_PROCESS, JudgePreset, find_preset
from step1x_jax.evaluation.judging.transformers_judge import TransformersJudge


def is_function(name: str) -> bool:
    """Whether a judge is a function, module:function, and not a preset."""
    return ":" in name


def preset_of(name: str, *, endpoint: str = "", model: str = "") -> JudgePreset:
    """The preset of a judge; of a function one that says where it is.

    Args:
      name: of a preset, or module:function.
      endpoint: another address than the preset's.
      model: another model than the preset's; of a function its version.

    Raises:
      UserError: see `find_preset`.
    """
    if is_function(name):
        return JudgePreset(name=name, endpoint=IN_PROCESS, model=model, max_tokens=0)
    return find_preset(name, endpoint=endpoint, model=model)


@contextlib.contextmanager
def open_judge(preset: JudgePreset, timeout: float, key_variable: str = "") -> Iterator[Respondent]:
    """A judge that can be asked.

    Args:
      preset: of `preset_of`.
      timeout: seconds for a reply of a server.
      key_variable: see `ChatClient`.

    Raises:
      UserError: it cannot be made; see the judges.
    """
    judge: ChatClient | FunctionJudge | TransformersJudge
    if is_function(preset.name):
        judge = FunctionJudge(preset.name, preset.model)
    elif preset.endpoint == IN_PROCESS:
        judge = TransformersJudge(preset)
    else:
        judge = ChatClient(preset, timeout, key_variable)
    with contextlib.closing(judge):
        yield judge


def limits_for(preset: JudgePreset, limits: AskLimits) -> AskLimits:
    """The limits of asking a judge: in this process one question at a time, and once.

    What is computed here gives the same again.
    """
    if preset.endpoint == IN_PROCESS:
        return dataclasses.replace(limits, concurrency=1, max_attempts=1)
    return limits
