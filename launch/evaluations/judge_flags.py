"""Flags of commands that ask judges: which one, its prompts, its pace, its prices."""

import contextlib
from collections.abc import Iterator
from typing import cast, get_args

from absl import flags

from step1x_jax.asking.ask import AskLimits
from step1x_jax.asking.exchange import Respondent
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.judging.judges import limits_for, open_judge, preset_of
from step1x_jax.evaluation.judging.presets import DEFAULT, PRESETS, JudgePreset, Protocol
from step1x_jax.evaluation.judging.prompts import JudgePrompts, read_prompts
from step1x_jax.evaluation.judging.tally import Prices
from step1x_jax.files import user_path

JUDGE = flags.DEFINE_string("judge", DEFAULT, f"{', '.join(PRESETS)}, or module:function.")
_JUDGE_NAME = flags.DEFINE_string(
    "judge_name", None, "Name of the folder of its judgements (default: that of the judge)."
)
_ENDPOINT = flags.DEFINE_string(
    "endpoint", "", "Address of an OpenAI-compatible server, as http://localhost:8000/v1."
)
_MODEL = flags.DEFINE_string(
    "model", "", "Another model than the judge's own; of transformers its folder."
)
_KEY_VARIABLE = flags.DEFINE_string(
    "key_variable", "", "Environment variable with the key (of OpenAI's address: OPENAI_API_KEY)."
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", None, get_args(Protocol), "How pictures are resized (default: the judge's)."
)
_PROMPT_FILE = flags.DEFINE_string(
    "prompt_file", None, "The published vie_prompts.py, instead of our words."
)
ACCEPT_SINGLE = flags.DEFINE_bool(
    "accept_single", False, "A reply with one number counts, as in the published harness."
)
REPEATS = flags.DEFINE_integer(
    "repeats", 1, "How often all is asked, for the judge's own noise.", lower_bound=1
)
_ATTEMPTS = flags.DEFINE_integer(
    "max_attempts", 5, "Of each question.", lower_bound=1, upper_bound=100
)
_CONCURRENCY = flags.DEFINE_integer(
    "concurrency", 8, "Questions at a time.", lower_bound=1, upper_bound=1000
)
_RATE = flags.DEFINE_float(
    "requests_per_minute", 0, "At most; 0: as fast as replies come.", lower_bound=0
)
_TIMEOUT = flags.DEFINE_float("timeout", 120, "Seconds for a reply.", lower_bound=1)
_USD_INPUT = flags.DEFINE_float(
    "usd_per_million_input", None, "Price of a million tokens that are read.", lower_bound=0
)
_USD_OUTPUT = flags.DEFINE_float(
    "usd_per_million_output", None, "Price of a million tokens that are written.", lower_bound=0
)
SINGLE = ("protocol", "prompt_file", "accept_single", "repeats")  # not of pairs
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be asked, and ask nothing.")


def check_for_pairs() -> None:
    """Raise UserError if flags are given that say something of single pictures alone."""
    for name in SINGLE:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} is of pictures judged one by one; leave it out.")


def preset() -> JudgePreset:
    """The judge's preset."""
    return preset_of(JUDGE.value, endpoint=_ENDPOINT.value, model=_MODEL.value)


def protocol() -> Protocol:
    """How pictures are resized."""
    return cast(Protocol, _PROTOCOL.value) or preset().protocol


def judge_name() -> str:
    """The name of the folder of the judge's judgements."""
    return _JUDGE_NAME.value or JUDGE.value.replace(":", ".")


def limits() -> AskLimits:
    """How often and how fast the judge is asked."""
    wanted = AskLimits(
        max_attempts=_ATTEMPTS.value,
        concurrency=_CONCURRENCY.value,
        requests_per_minute=_RATE.value,
    )
    return limits_for(preset(), wanted)


def prices() -> Prices:
    """Return the price of tokens."""
    return Prices(_USD_INPUT.value, _USD_OUTPUT.value)


def prompts(benchmark: Benchmark) -> JudgePrompts:
    """The benchmark's questions in words."""
    file = _PROMPT_FILE.value
    return read_prompts(benchmark, user_path(file) if file else None)


@contextlib.contextmanager
def judge(of: JudgePreset | None = None) -> Iterator[Respondent]:
    """The judge of a preset; None: of the one that the flags name."""
    with open_judge(of or preset(), _TIMEOUT.value, _KEY_VARIABLE.value) as opened:
        yield opened
