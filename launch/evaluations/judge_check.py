"""Check a judge against people, on pairs that they have judged: launch/guides/evaluate.md.

python -m launch.evaluate judge-check --dataset=vcreward_bench --endpoint=http://localhost:8000/v1 \
    --judge=pvc-judge --dry_run
python -m launch.evaluate judge-check --dataset=EditReward-Bench --judge=gpt-5-family --limit=500

Reads VCReward-Bench and both data sets that are called EditReward-Bench. Prints accuracy and
position bias. Writes RESULTS/judge_checks/JUDGE/: replies.jsonl (every reply, as it comes), and at
the end verdicts.jsonl, judge.json, check.md and check.json.

Ends with exit code 3 if questions have no verdict.
"""

from typing import cast, get_args

from absl import flags
from etils import epath

from launch.evaluations import judge_flags
from launch.shared.exit_codes import SOME_FAILED
from step1x_jax.evaluation.judging.tally import Tally, describe_plan
from step1x_jax.evaluation.names import check_name
from step1x_jax.evaluation.pairwise.check_tables import to_json, to_markdown
from step1x_jax.evaluation.pairwise.judge_check import check_judge, measure_judge, plan_check
from step1x_jax.evaluation.pairwise.judged_pairs import QUESTIONS, draw_pairs, read_judged_pairs
from step1x_jax.evaluation.pairwise.pair_files import read_pairs
from step1x_jax.evaluation.pairwise.questions import Orders, check_can_compare, for_pairs
from step1x_jax.files import replacing, user_path
from step1x_jax.json_files import write_json

FOLDER = "judge_checks"

_DATASET = flags.DEFINE_string(
    "dataset", None, "Folder or file of pairs that people have judged.", required=True
)
_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_DIMENSIONS = flags.DEFINE_list("dimensions", [], f"Only these of {', '.join(QUESTIONS)}.")
_ORDERS = flags.DEFINE_enum(
    "orders", "both", get_args(Orders), "Each pair in both orders, or in one that chance chooses."
)
_LIMIT = flags.DEFINE_integer(
    "limit", None, "At most so many pairs, drawn at random.", lower_bound=1
)
flags.adopt_module_key_flags(judge_flags)


def main() -> int:
    """Ask, measure, print and write."""
    judge_flags.check_for_pairs()
    name = judge_flags.judge_name()
    check_name(name, "the judge's name")
    folder = epath.Path(user_path(_RESULTS.value)) / FOLDER / name
    preset = for_pairs(judge_flags.preset())
    check_can_compare(preset)
    pairs = draw_pairs(read_judged_pairs(_DATASET.value, _DIMENSIONS.value), _LIMIT.value)
    orders = cast(Orders, _ORDERS.value)
    limits, prices = judge_flags.limits(), judge_flags.prices()
    with judge_flags.judge(preset) as judge:
        if judge_flags.DRY_RUN.value:
            plan = plan_check(pairs, folder, preset, judge, limits, orders)
            print(describe_plan(plan, prices))
            return 0
        tally = Tally(prices)
        verdicts = check_judge(
            pairs, folder, preset, judge, limits, orders, tally, user_path(_DATASET.value)
        )
    print(f"{folder}: {tally}\n")
    _, facts = read_pairs(folder)
    tables = measure_judge(pairs, verdicts)
    text = to_markdown(tables, name, facts)
    with replacing(folder / "check.md") as temporary:
        temporary.write_bytes(text.encode())
    write_json(folder / "check.json", to_json(tables, name, facts))
    print(text, end="")
    return SOME_FAILED if any(one.winner is None for one in verdicts) else 0
