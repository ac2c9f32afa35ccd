"""Rank methods by verdicts on pairs of their pictures: launch/guides/evaluate.md.

python -m launch.evaluate rank --results=results
python -m launch.evaluate rank --results=results --judge=gpt-4o,pvc-judge --output=ranking

Prints Markdown: Elo scores with 95 % intervals in each dimension, and jointly; what the judge's
verdicts are like; published rows apart. With --output also rank.md, rank.csv, rank.json and
rank.png.

Several judges make one ranking if each of them judged other dimensions.
"""

import sys

from absl import flags
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.pairwise.pair_files import find_pair_judges, pair_folder, read_pairs
from step1x_jax.evaluation.pairwise.rank_chart import draw_ranking
from step1x_jax.evaluation.pairwise.rank_tables import to_csv, to_json, to_markdown
from step1x_jax.evaluation.pairwise.ranking_of_judges import JudgeVerdicts, rank_judged
from step1x_jax.files import replacing, user_path
from step1x_jax.json_files import write_json

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_JUDGE = flags.DEFINE_list("judge", [], "Names of judges, as a,b (default: all that there are).")
_METHODS = flags.DEFINE_list("methods", [], "Only these methods, as a,b,c.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the tables and the chart.")
_CHART = flags.DEFINE_bool("chart", True, "With --output: also the chart.")


def main() -> None:
    """Read verdicts, compute and write tables."""
    names = list(dict.fromkeys(_JUDGE.value)) or find_pair_judges(_RESULTS.value)
    judged = {name: JudgeVerdicts(*read_pairs(pair_folder(_RESULTS.value, name))) for name in names}
    ranking = rank_judged(judged, _METHODS.value)
    text = to_markdown(ranking)
    print(text, end="")
    if not _OUTPUT.value:
        return
    output = epath.Path(user_path(_OUTPUT.value))
    for name, content in (("rank.md", text), ("rank.csv", to_csv(ranking))):
        with replacing(output / name) as temporary:
            temporary.write_bytes(content.encode())
    write_json(output / "rank.json", to_json(ranking))
    if _CHART.value:
        try:
            draw_ranking(output / "rank.png", ranking.tables)
        except UserError as e:
            print(f"no chart: {e}", file=sys.stderr)
