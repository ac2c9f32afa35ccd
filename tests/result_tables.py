"""What the pages repeat of launch/benchmarks/*.json: figures and tables, and all their rounding.

RESULTS has the functions by name; recorded_results.py calls those that the marks of a page name.
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "launch/benchmarks"
CHIPS = ("v5p", "v5e", "v6e")  # the order of rows

Result = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Result], str]]]


def read(pattern: str) -> list[Result]:
    """The results whose files match, which are named without their ending."""
    found = [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{pattern}.json"))]
    if not found:
        raise LookupError(f"no file of launch/benchmarks is {pattern}.json")
    return found


# Figures, of a number


def gib(x: float) -> str:
    return f"{x:.1f}"


def available_gib(x: float) -> str:
    return f"{x:.4g}"  # 15.75: a program of 15.8 does not fit


def seconds(x: float) -> str:
    return f"{x:.1f}"


def step_seconds(x: float) -> str:
    return f"{x:.2f}"


def milliseconds(x: float) -> str:
    return f"{1000 * x:.0f}"


def minutes(x: float) -> str:
    return f"{x / 60:.2g}"


def hours_of_training(x: float) -> str:
    return f"{100_000 * x / 3600:.0f}"  # of so many steps, from the seconds of one


def rate(x: float) -> str:
    return f"{x:.2f}"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def figure(in_words: Callable[[float], str]) -> Callable[[str, str], str]:
    """A function of a file and the keys, joined by dots, that lead to a number in it."""

    def look_up(file: str, path: str) -> str:
        value: Any
        (value,) = read(file)
        for key in path.split("."):
            value = value[key]
        return in_words(value)

    return look_up


# Figures, of files


def origin(*patterns: str) -> str:
    """Versions and commits that results were made with."""
    results = [result for pattern in patterns for result in read(pattern)]
    versions = {" with ".join(map(" ".join, result["versions"].items())) for result in results}
    commits = {result["commit"] for result in results}
    return f"{listed(versions)}, commit{'s' * (len(commits) > 1)} {listed(commits)}"


def listed(words: Iterable[str]) -> str:
    *first, last = sorted(words)
    return f"{', '.join(first)} and {last}" if first else last


def missing_gib(file: str) -> str:
    """What an edit with --offload needs more than a chip has."""
    (plan,) = read(file)
    return f"{plan['peak_gib']['offloaded'] - plan['hbm_available_gib']:.2f}"


def kept(file: str) -> str:
    """How many edits a run of curation kept, and how evenly."""
    (result,) = read(file)
    total, categories = result["stats"]["retention"], result["stats"]["categories"].values()
    some = [category for category in categories if category["accepted"]]
    counts = [category["accepted"] for category in some]
    return (
        f"{total['accepted']} of {total['made']} edits ({total['made_per_accepted']:.1f}:1, the"
        f" paper's is {total['paper_made_per_accepted']}:1): {len(some)} of the {len(categories)}"
        f" categories have {min(counts)} to {max(counts)} from"
        f" {min(category['sources'] for category in some)} and more photographs"
    )


def curated(file: str) -> str:
    """Time and outcome of a run of curation and its export."""
    (result,) = read(file)
    run, export = minutes(result["run_seconds"]), minutes(result["export_seconds"])
    text = f"{run} minutes, and {export} for the export's records; kept are {kept(file)}"
    return textwrap.fill(text, 88)


# Tables


def table(rows: Sequence[Result], columns: Columns, merged: int = 0) -> str:
    """In Markdown; the first `merged` cells are blank where they and all before them repeat."""
    lines = [[title for title, _ in columns]]
    above: list[str] = []
    for row in rows:
        cells = [in_words(row) for _, in_words in columns]
        same = next((i for i in range(merged) if cells[: i + 1] != above[: i + 1]), merged)
        lines.append([""] * same + cells[same:])
        above = cells
    title, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join((title, "|" + "---|" * len(columns), *rest))


def of_each(results: dict[str, float]) -> str:
    return ", ".join(map(gib, results.values()))


def sum_of(weights: dict[str, float]) -> str:
    return " + ".join(map(gib, weights.values()))


def mesh(plan: Result) -> str:
    """As the flag --mesh."""
    axes = [f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1]
    return ",".join(axes) or "one chip"


def by_chips(plan: Result) -> tuple[int, int]:
    return CHIPS.index(plan["topology"].partition(":")[0]), plan["chips"]


def edits_on_gpus() -> str:
    """Memory of an edit on one GPU."""
    plans = [plan for plan in read("plan_*") if "smallest_card_gb" in plan]
    plans.sort(key=lambda plan: (-plan["size"], plan["quantize"] or ""))

    def card(where: str) -> Callable[[Result], str]:
        return lambda x: f"{gb} GB" if (gb := x["smallest_card_gb"][where]) else "no card"

    columns: Columns = (
        ("picture", lambda x: f"{x['size']} px"),
        ("flags", lambda x: f"`--quantize={x['quantize']}`" if x["quantize"] else ""),
        (
            "weights, GiB: transformer, language model, autoencoder",
            lambda x: sum_of(x["weights_gib"]),
        ),
        (
            "beside them: reading, sampling, decoding",
            lambda x: of_each(x["temporaries_gib"]),
        ),
        ("peak", lambda x: gib(x["peak_gib"]["resident"])),
        ("fits", card("resident")),
        ("peak with `--offload`", lambda x: gib(x["peak_gib"]["offloaded"])),
        ("fits", card("offloaded")),
    )
    return table(plans, columns, merged=1)


def edits_on_tpus() -> str:
    """Memory and time of an edit on TPUs."""
    plans = [plan for plan in read("plan_*") if plan.get("program") == "sample"]
    plans.sort(key=lambda x: (*by_chips(x), mesh(x), -x["size"], x["quantize"] or ""))

    def working(plan: Result) -> str:
        """Decoding is not compiled again for small pictures."""
        programs = plan["programs"]
        return ", ".join(
            gib(programs[name]["working_gib"]) if name in programs else "less"
            for name in ("read", "sample", "decode")
        )

    def peak(where: str) -> Callable[[Result], str]:
        return lambda x: gib(x["peak_gib"][where]) + ("" if x["fits"][where] else ", too much")

    columns: Columns = (
        ("topology", lambda x: x["topology"]),
        ("mesh", mesh),
        ("picture", lambda x: f"{x['size']} px"),
        ("`--quantize`", lambda x: x["quantize"] or ""),
        ("weights on the first chip, GiB", lambda x: sum_of(x["weights_gib"])),
        ("beside them: reading, sampling, decoding", working),
        ("peak", peak("resident")),
        ("peak with `--offload`", peak("offloaded")),
        ("of", lambda x: available_gib(x["hbm_available_gib"])),
        ("a step, ms", lambda x: milliseconds(x["estimated_step_seconds"])),
        ("an edit, s", lambda x: seconds(x["estimated_edit_seconds"])),
        ("MFU", lambda x: percent(x["estimated_mfu"])),
    )
    return table(plans, columns, merged=2)


def plans_of(config: str, size: str) -> list[Result]:
    """Of training with a file of configs/."""
    plans = [
        plan
        for plan in read("plan_*")
        if plan.get("program") == "train"
        and f"--config=configs/{config}.py" in plan["command"].split()
        and plan["size"] == int(size)
    ]
    if not plans:
        raise LookupError(f"no plan of launch/benchmarks is of {config} at {size} px")
    return sorted(plans, key=by_chips)


def examples(plan: Result) -> str:
    return f"{plan['examples'] // plan['chips']}"


def memory(plan: Result) -> str:
    return f"{gib(plan['hbm_per_chip_gib'])}, {available_gib(plan['hbm_available_gib'])}"


def saved(plan: Result) -> str:
    """In the words of the guide: the names in a policy (models/remat.py)."""
    if plan["remat"] == "full":
        return "nothing"
    return ", ".join(plan["remat"].split("_")).replace("mlp", "MLP")


STEP: Columns = (
    ("saved", saved),
    ("GiB a chip, of", memory),
    ("step, s", lambda x: step_seconds(x["estimated_step_seconds"])),
    ("MFU", lambda x: percent(x["estimated_mfu"])),
    ("images/s and chip", lambda x: rate(x["images_per_second_per_chip"])),
)


def training(config: str, size: str) -> str:
    """Memory and time of the steps of a config."""
    columns: Columns = (("topology", lambda x: x["topology"]), ("mesh", mesh), *STEP)
    return table(plans_of(config, size), columns)


def training_of_several(*words: str) -> str:
    """Memory and time of the steps of configs: a config and a size, another config and size, ..."""
    pairs = zip(words[::2], words[1::2], strict=True)
    plans = [plan for pair in pairs for plan in plans_of(*pair)]

    def what(plan: Result) -> str:
        return f"{'LoRA' if '/lora.py' in plan['command'] else 'full'}, {plan['size']} px"

    columns: Columns = (
        ("what", what),
        ("topology", lambda x: x["topology"]),
        ("examples a chip", examples),
        *STEP,
    )
    return table(plans, columns, merged=1)


def slices(config: str, size: str) -> str:
    """What a run of a config needs of each slice."""
    columns: Columns = (
        ("slice", lambda x: f"{x['topology']} ({x['chips']} chips)"),
        ("edits a step", lambda x: str(x["examples"])),
        (
            "hours for 100 000 steps, estimated",
            lambda x: hours_of_training(x["estimated_step_seconds"]),
        ),
        ("GiB a chip, of", memory),
    )
    return table(plans_of(config, size), columns)


def hours(config: str, size: str) -> str:
    """The hours of 100 000 steps on each slice, in columns for a docstring."""

    lines = [("slice", "edits a chip", "hours")]
    for plan in plans_of(config, size):
        took = hours_of_training(plan["estimated_step_seconds"])
        lines.append((plan["topology"], examples(plan), took))
    return "\n".join(f"{slice_:<12}{edits:<15}{took}" for slice_, edits, took in lines)


FIGURES = (gib, seconds, step_seconds, minutes, percent)
WHOLE = (
    origin, missing_gib, kept, curated,
    edits_on_gpus, edits_on_tpus, training, training_of_several, slices, hours,
)  # fmt: skip
RESULTS: dict[str, Callable[..., str]] = {
    **{one.__name__: figure(one) for one in FIGURES},
    **{one.__name__: one for one in WHOLE},
}
