"""Print tables of what judges said of methods: launch/guides/evaluate.md.

python -m launch.evaluate report --results=results --methods=mine,others --output=report
python -m launch.evaluate report --results=results --methods=mine --judge=gpt-4.1,qwen2.5-vl-72b

Prints Markdown. With --output also report.md, report.csv, report.json and a chart of each judge and
language. Of several judges it says how they agree on the same pictures.

--import_csv=DIR first takes the official harness's tables in DIR/METHOD/JUDGE for judgements;
--export_csv=DIR writes such tables.

Ends with exit code 3 under --require_complete if a judge failed on a picture or an average is
absent.
"""

import sys

from absl import flags
from etils import epath

from launch.shared.exit_codes import SOME_FAILED
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import BENCHMARKS, GEDIT
from step1x_jax.evaluation.chart import draw_radar
from step1x_jax.evaluation.judgement_files import judge_folder, read_judgements
from step1x_jax.evaluation.method_pictures import method_folder
from step1x_jax.evaluation.report import BenchmarkReport, make_report, read_judged
from step1x_jax.evaluation.report_tables import to_csv, to_json, to_markdown
from step1x_jax.evaluation.score_csv import import_score_csv, write_score_csv
from step1x_jax.evaluation.statistics import measures_of
from step1x_jax.files import replacing, user_path
from step1x_jax.json_files import write_json

_RESULTS = flags.DEFINE_string("results", "results", "Folder of all methods.")
_METHODS = flags.DEFINE_list("methods", None, "Names of methods, as a,b,c.", required=True)
_JUDGE = flags.DEFINE_list("judge", [], "Names of judges, as a,b (default: all that there are).")
_BENCHMARK = flags.DEFINE_enum("benchmark", GEDIT.name, list(BENCHMARKS), "Which benchmark it is.")
_COMMON = flags.DEFINE_bool(
    "common", False, "Instead of the intersection what all methods have pictures of."
)
_REQUIRE_COMPLETE = flags.DEFINE_bool(
    "require_complete", False, "Exit code 3 if something has no score for want of a judge."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the tables and charts.")
_CHART = flags.DEFINE_bool("chart", True, "With --output: also charts.")
_IMPORT_CSV = flags.DEFINE_string("import_csv", None, "Folder with official tables of scores.")
_EXPORT_CSV = flags.DEFINE_string("export_csv", None, "Folder for official tables of scores.")


def main() -> int:
    """Read judgements, compute and write tables."""
    benchmark = BENCHMARKS[_BENCHMARK.value]
    if _IMPORT_CSV.value:
        for method in _METHODS.value:
            folder = method_folder(_RESULTS.value, method)
            import_score_csv(user_path(_IMPORT_CSV.value), method, folder)
    judged = read_judged(_RESULTS.value, _METHODS.value, _JUDGE.value, benchmark)
    report = make_report(judged, benchmark, common=_COMMON.value)
    if _EXPORT_CSV.value:
        for judge, methods in judged.items():
            for method in methods:
                folder = judge_folder(method_folder(_RESULTS.value, method), judge)
                judgements, _ = read_judgements(folder)
                write_score_csv(user_path(_EXPORT_CSV.value), method, judge, judgements)
    text = to_markdown(report)
    print(text, end="")
    if _OUTPUT.value:
        output = epath.Path(user_path(_OUTPUT.value))
        for name, content in (("report.md", text), ("report.csv", to_csv(report))):
            with replacing(output / name) as temporary:
                temporary.write_bytes(content.encode())
        write_json(output / "report.json", to_json(report))
        if _CHART.value:
            draw_charts(report, output)
    return SOME_FAILED if _REQUIRE_COMPLETE.value and report.incomplete else 0


def draw_charts(report: BenchmarkReport, output: epath.Path) -> None:
    """One of each judge and language, of the full set; says why if there can be none."""
    measure = measures_of(report.benchmark)[-1]
    highest = max(question.highest for question in report.benchmark.questions)
    for table in report.tables:
        if table.subset == "full":
            tasks = list(next(iter(table.methods.values())).tasks)
            name = "-".join(filter(None, ["radar", table.judge, table.language]))
            means = {
                method: [
                    summary.tasks[task].means.get(measure) if task in summary.tasks else None
                    for task in tasks
                ]
                for method, summary in table.methods.items()
            }
            title = ", ".join(filter(None, [measure, table.language, f"judge {table.judge}"]))
            try:
                draw_radar(output / f"{name}.png", title, tasks, means, highest)
            except UserError as e:
                print(f"no chart: {e}", file=sys.stderr)
                return
