"""Ask a judge about a method's pictures: launch/guides/evaluate.md.

python -m launch.evaluate judge --dataset=data/gedit --results=results --method=mine \
    --endpoint=http://localhost:8000/v1
python -m launch.evaluate judge --dataset=data/gedit --results=results --method=mine \
    --judge=gpt-4.1 --limit=44 --usd_per_million_input=2 --usd_per_million_output=8 --dry_run

python -m launch.evaluate judge --dataset=data/gedit --results=results --method=mine \
    --against=others --judge=qwen3-vl

Writes RESULTS/METHOD/judgements/JUDGE/: replies.jsonl (every reply, as it comes), and at the end
judgements.jsonl and judge.json. Run it again after it was stopped: nothing is asked twice.

With --against it asks which of two methods' pictures is better, and writes RESULTS/pairs/JUDGE/:
replies.jsonl, verdicts.jsonl and judge.json.

Ends with exit code 3 if samples have no valid judgement, or pairs no verdict.
"""

import collections
import sys
from collections.abc import Sequence

from absl import flags

from launch.evaluations import benchmark_flags, judge_against, judge_flags
from launch.shared.exit_codes import SOME_FAILED
from step1x_jax.data.paths import make_printable
from step1x_jax.evaluation.datasets import find_source, read_samples
from step1x_jax.evaluation.judgement_files import judge_folder
from step1x_jax.evaluation.judgements import Judgement, Status
from step1x_jax.evaluation.judging.judge_run import JudgeRun, judge_pictures, plan_judging
from step1x_jax.evaluation.judging.questions import source_column
from step1x_jax.evaluation.judging.tally import Tally, describe_plan
from step1x_jax.evaluation.method_pictures import method_folder
from step1x_jax.evaluation.statistics import measures_of

LISTED = 20  # samples without a judgement that are listed
STATUSES: tuple[Status, ...] = (
    "ok",
    "missing",
    "unreadable",
    "unparsable",
    "refused",
    "failed",
)

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHOD = flags.DEFINE_string("method", None, "Name of the method, a folder of it.", required=True)
flags.adopt_module_key_flags(benchmark_flags)
flags.adopt_module_key_flags(judge_flags)
flags.adopt_module_key_flags(judge_against)


def main() -> int:
    """Judge, and print what became of the samples."""
    if judge_against.AGAINST.value:
        return judge_against.judge_against(_RESULTS.value, _METHOD.value)
    return judge_method()


def judge_method() -> int:
    """Judge the pictures of --method one by one."""
    benchmark = benchmark_flags.benchmark()
    measures_of(benchmark)  # refuses one that is judged by pairs
    protocol = judge_flags.protocol()
    source = benchmark_flags.SOURCE.value or source_column(benchmark, protocol)
    pictures = method_folder(_RESULTS.value, _METHOD.value)
    run = JudgeRun(
        benchmark=benchmark,
        method_folder=pictures,
        folder=judge_folder(pictures, judge_flags.judge_name()),
        preset=judge_flags.preset(),
        prompts=judge_flags.prompts(benchmark),
        protocol=protocol,
        source=find_source(benchmark, source),
        repeats=judge_flags.REPEATS.value,
        accept_single=judge_flags.ACCEPT_SINGLE.value,
    )
    samples = read_samples(
        benchmark_flags.DATASET.value,
        benchmark,
        run.source,
        benchmark_flags.TASKS.value,
        benchmark_flags.LANGUAGES.value,
        benchmark_flags.LIMIT.value,
    )
    limits, prices = judge_flags.limits(), judge_flags.prices()
    with judge_flags.judge() as judge:
        if judge_flags.DRY_RUN.value:
            plan, without = plan_judging(run, samples, judge, limits)
            print(describe_plan(plan, prices))
            for status, count in without.items():
                print(f"{count} samples whose picture is {status}")
            return 0
        tally = Tally(prices)
        judgements = judge_pictures(run, samples, judge, limits, tally)
    print(f"{run.folder}: {tally}")
    print_counts(judgements)
    return 0 if all(one.status == "ok" for one in judgements) else SOME_FAILED


def print_counts(judgements: Sequence[Judgement]) -> None:
    """A table of how many ended how, by language, and the first samples without a judgement."""
    counts = collections.Counter((one.id.language, one.status) for one in judgements)
    languages = list(dict.fromkeys(one.id.language for one in judgements))
    print(" ".join(f"{text:>10}" for text in ("", *STATUSES)))
    for language in languages:
        numbers = (str(counts[language, status]) for status in STATUSES)
        print(" ".join(f"{text:>10}" for text in (language or "all", *numbers)))
    without = [one for one in judgements if one.status != "ok"]
    for one in without[:LISTED]:
        name = "/".join(filter(None, one.id))
        print(make_printable(f"{name}: {one.status} {one.reason}".rstrip()), file=sys.stderr)
    if len(without) > LISTED:
        print(f"and {len(without) - LISTED} more, in judgements.jsonl", file=sys.stderr)
