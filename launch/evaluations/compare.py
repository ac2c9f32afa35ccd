"""Compare two methods on the same samples: launch/guides/evaluate.md.

python -m launch.evaluate compare --results=results --methods=mine,others --output=comparison \
    --dataset=data/gedit

Prints Markdown. With --output also comparison.md, comparison.json, and disagreements.png: the ten
samples about which the scores differ most; with --dataset it shows sources and instructions, too.
"""

import sys

from absl import flags
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import BENCHMARKS, GEDIT
from step1x_jax.evaluation.comparison import largest_disagreements, pair_samples
from step1x_jax.evaluation.comparison_tables import sections_to_json, sections_to_markdown
from step1x_jax.evaluation.contact_sheet import draw_disagreements
from step1x_jax.evaluation.datasets import find_source, read_samples
from step1x_jax.evaluation.method_pictures import method_folder
from step1x_jax.evaluation.report import compare_methods, read_judged
from step1x_jax.evaluation.statistics import measures_of
from step1x_jax.files import replacing, user_path
from step1x_jax.json_files import write_json

SHOWN = 10  # disagreements

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHODS = flags.DEFINE_list("methods", None, "Names of two methods, as a,b.", required=True)
_JUDGE = flags.DEFINE_string("judge", None, "Name of the judge (default: the only one).")
_BENCHMARK = flags.DEFINE_enum("benchmark", GEDIT.name, list(BENCHMARKS), "Which benchmark it is.")
_DATASET = flags.DEFINE_string("dataset", None, "The data set, for sources and instructions.")
_SOURCE = flags.DEFINE_string(
    "source", None, "Column of the source picture (default: the benchmark's)."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the tables and the sheet of pictures.")


def main() -> None:
    """Read judgements, compare, and write what came out."""
    benchmark = BENCHMARKS[_BENCHMARK.value]
    if len(_METHODS.value) != 2:
        raise UserError(f"--methods={','.join(_METHODS.value)}: give two, as a,b.")
    first, second = _METHODS.value
    names = list(dict.fromkeys(_METHODS.value))  # one, if a method is compared with itself
    wanted = [_JUDGE.value] if _JUDGE.value else []
    judged = read_judged(_RESULTS.value, names, wanted, benchmark)
    shared = [judge for judge, methods in judged.items() if len(methods) == len(names)]
    if len(shared) != 1:
        raise UserError(
            f"{' and '.join(names)} are both judged by {', '.join(shared) or 'nobody'}; give the"
            " --judge, or judge both."
        )
    (judge,) = shared
    methods = judged[judge]
    source = find_source(benchmark, _SOURCE.value)
    samples = {}
    if _DATASET.value:
        samples = {one.id: one for one in read_samples(_DATASET.value, benchmark, source)}
    sections = compare_methods(methods[first], methods[second], benchmark)
    facts = {judge: {name: of.judge for name, of in methods.items()}}
    text = sections_to_markdown(sections, first, second, measures_of(benchmark), facts)
    print(text, end="")
    if not _OUTPUT.value:
        return
    output = epath.Path(user_path(_OUTPUT.value))
    with replacing(output / "comparison.md") as temporary:
        temporary.write_bytes(text.encode())
    write_json(output / "comparison.json", sections_to_json(sections, first, second))
    pairs = largest_disagreements(
        pair_samples(methods[first].samples, methods[second].samples), SHOWN
    )
    folders = {name: method_folder(_RESULTS.value, name) for name in names}
    sheet, left_out = draw_disagreements(pairs, folders, benchmark, samples, source)
    if left_out:
        listed = ", ".join("/".join(one) for one in left_out)
        print(f"not on the sheet, for a picture cannot be read: {listed}", file=sys.stderr)
    if sheet is not None:
        with replacing(output / "disagreements.png") as temporary, temporary.open("wb") as file:
            sheet.save(file, "PNG")
