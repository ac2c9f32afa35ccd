"""The judges that are known by name, each a small table of how it is asked.

What differs between servers and models is here, and nowhere else. Facts: the judges of
GEdit-Bench from stepfun-ai/Step1X-Edit, GEdit-Bench/viescore; PVC-Judge from
ZhangqiJiang07/GEditBench_v2; the parameters that OpenAI's reasoning models refuse from its API.
"""

import dataclasses
from typing import Literal

from step1x_jax.asking.preset import LOCAL, OPENAI, ChatPreset
from step1x_jax.errors import UserError

IN_PROCESS = "transformers"  # as an endpoint: no server

# area512: each picture to about 512 x 512 pixels, in its own shape.  source_size: the result
# stretched to the source's size.  long1024: the longer side shrunk to 1024.
Protocol = Literal["area512", "source_size", "long1024"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgePreset(ChatPreset):
    """How a judge is asked.

    Attributes:
      name: as given to --judge.
      endpoint: see `ChatPreset`; IN_PROCESS: no server.
      model: likewise; in process: a folder. "": there is no default.
      order: what comes first in a question, where the benchmark does not say.
      protocol: how pictures are resized unless --protocol says otherwise.
      strip_reasoning: whether <think>...</think> is taken away before a reply is read.
    """

    name: str
    order: Literal["pictures", "text"] = "pictures"
    protocol: Protocol = "area512"
    strip_reasoning: bool = False


QWEN_2_5_VL_72B = JudgePreset(
    name="qwen2.5-vl-72b",
    endpoint=LOCAL,
    model="Qwen/Qwen2.5-VL-72B-Instruct-AWQ",
    max_tokens=512,
    temperature=0,
)

QWEN_3_VL = JudgePreset(
    name="qwen3-vl",
    endpoint=LOCAL,
    model="Qwen/Qwen3-VL-32B-Instruct",
    max_tokens=4096,  # the thinking models' reasoning is a part of it
    temperature=0,
    structured=True,
    strip_reasoning=True,
)

GPT_4_1 = JudgePreset(
    name="gpt-4.1",
    endpoint=OPENAI,
    model="gpt-4.1-2025-04-14",  # not the alias, which has drifted
    max_tokens=1400,
    order="text",
    picture_format="JPEG",
)

GPT_5 = JudgePreset(
    name="gpt-5-family",
    endpoint=OPENAI,
    model="gpt-5.1-2025-11-13",
    token_limit="max_completion_tokens",  # max_tokens is refused, and so is a temperature
    max_tokens=4096,
    order="text",
    picture_format="JPEG",
    structured=True,
)

PVC_JUDGE = JudgePreset(
    name="pvc-judge",
    endpoint=LOCAL,
    model="PVC-Judge",
    max_tokens=2048,
    temperature=0.7,
    seed=42,
    protocol="long1024",
)

TRANSFORMERS = JudgePreset(
    name="transformers",
    endpoint=IN_PROCESS,
    model="",
    max_tokens=512,
    temperature=0,
)

DEFAULT = QWEN_2_5_VL_72B.name
PRESETS = {
    preset.name: preset
    for preset in (QWEN_2_5_VL_72B, QWEN_3_VL, GPT_4_1, GPT_5, PVC_JUDGE, TRANSFORMERS)
}


def find_preset(name: str, *, endpoint: str = "", model: str = "") -> JudgePreset:
    """The preset of a name, with another address or model where these are given.

    Raises:
      UserError: there is no such preset, or the address is none.
    """
    if name not in PRESETS:
        raise UserError(
            f"--judge={name} is not known; give one of {', '.join(PRESETS)}, or module:function."
        )
    preset = PRESETS[name]
    if endpoint and preset.endpoint == IN_PROCESS:
        raise UserError(f"--judge={name} runs in this process; leave --endpoint out.")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"--endpoint={endpoint} is no address; it begins with http:// or https://.")
    if not (model or preset.model):
        raise UserError(f"--judge={name} needs --model, the folder of a model.")
    return dataclasses.replace(
        preset, endpoint=(endpoint or preset.endpoint).rstrip("/"), model=model or preset.model
    )
