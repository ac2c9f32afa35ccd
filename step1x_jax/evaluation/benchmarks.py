"""The benchmarks: their columns, tasks, questions and how scores become a table, as data.

Facts: GEdit-Bench from stepfun-ai/Step1X-Edit, GEdit-Bench/ (prompts of VIEScore; statistics);
GEditBench v2 from ZhangqiJiang07/GEditBench_v2 (arXiv 2603.28547); ImgEdit-Bench's basic part from
PKU-YuanGroup/ImgEdit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Picture = Literal["source", "edited", "first", "second"]


@dataclasses.dataclass(frozen=True)
class JudgeQuestion:
    """A question to a judge.

    Attributes:
      name: the score's name; for pairs the dimension's.
      pictures: those that the judge sees, in this order.
      prompt: the file of assets/evaluation/prompts that has our words; {instruction} in it is
        replaced, and so is {NAME} by the sample's text in any other column.
      answer: "numbers", so many of them, or "winner" (first, second or a tie).
      numbers: how many.
      lowest: the lowest number that is valid.
      highest: the highest one.
      whole: whether numbers must be whole.
      criteria: where each task has its own: task -> the file of them, which takes the place of
        {criteria} in the prompt. Other tasks than these are then refused.
      tasks: of whose samples it is asked; empty: of all.
    """

    name: str
    pictures: tuple[Picture, ...]
    prompt: str
    answer: Literal["numbers", "winner"] = "numbers"
    numbers: int = 0
    lowest: float = 0
    highest: float = 0
    whole: bool = False
    criteria: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark as a table.

    Attributes:
      name: as given to --benchmark.
      columns: our field -> the column's names in data sets, the first that is there counts:
        task, key, instruction, language, intersection.
      pictures: source picture columns by the name that --source takes, the default one first.
      tasks: in official order; empty: those of the data set.
      languages: in order; empty: the benchmark has none.
      questions: asked of each sample, or of each pair.
      layout: of a method's folder: "fullset" METHOD/fullset/TASK/LANG/KEY.png,
        "flat" METHOD/KEY.png.
      score: how a sample's numbers become its scores: "viescore" SC = min, PQ = min,
        O = sqrt(SC PQ); "mean" of all numbers; "pairs": by pairwise comparison alone.
      mean_of: "tasks": mean over samples within a task, then plain mean over tasks; "samples".
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    questions: tuple[JudgeQuestion, ...]
    layout: Literal["fullset", "flat"]
    score: Literal["viescore", "mean", "pairs"]
    mean_of: Literal["tasks", "samples"] = "tasks"


_PAIR_OF_EDITS: tuple[Picture, ...] = ("source", "first", "second")

GEDIT = Benchmark(
    name="gedit",
    columns={
        "task": ("task_type",),
        "key": ("key",),
        "instruction": ("instruction",),
        "language": ("instruction_language",),
        "intersection": ("Intersection_exist",),
    },
    pictures={"input_image": ("input_image",), "input_image_raw": ("input_image_raw",)},
    tasks=(
        "background_change",
        "color_alter",
        "material_alter",
        "motion_change",
        "ps_human",
        "style_change",
        "subject-add",
        "subject-remove",
        "subject-replace",
        "text_change",
        "tone_transfer",
    ),
    languages=("en", "cn"),
    questions=(
        JudgeQuestion(
            "semantics", ("source", "edited"), "gedit_semantics", numbers=2, lowest=0, highest=10
        ),
        JudgeQuestion("quality", ("edited",), "gedit_quality", numbers=2, lowest=0, highest=10),
    ),
    layout="fullset",
    score="viescore",
)

GEDIT_V2 = Benchmark(
    name="geditv2",
    columns={"task": ("task",), "key": ("key",), "instruction": ("instruction",)},
    pictures={"source_image": ("source_image",)},
    tasks=(),
    languages=(),
    questions=(
        JudgeQuestion("instruction_following", _PAIR_OF_EDITS, "pair_instruction", answer="winner"),
        JudgeQuestion("visual_quality", ("first", "second"), "pair_quality", answer="winner"),
        JudgeQuestion("visual_consistency", _PAIR_OF_EDITS, "pair_consistency", answer="winner"),
    ),
    layout="flat",
    score="pairs",
)

_IMGEDIT_TASKS = (
    "add",
    "adjust",
    "background",
    "style",
    "extract",
    "remove",
    "replace",
    "compose",
    "action",
)

IMGEDIT = Benchmark(
    name="imgedit",
    columns={
        "task": ("edit_type", "task"),
        "key": ("key", "id"),
        "instruction": ("prompt", "instruction"),
    },
    pictures={"input_image": ("input_image", "source_image", "image")},
    tasks=(),
    languages=(),
    questions=(
        JudgeQuestion(
            "edit",
            ("source", "edited"),
            "imgedit",
            numbers=3,
            lowest=1,
            highest=5,
            whole=True,
            criteria={task: f"imgedit_{task}" for task in _IMGEDIT_TASKS}
            | {"alter": "imgedit_adjust"},  # as its basic_edit.json calls that task
        ),
    ),
    layout="flat",
    score="mean",
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in (GEDIT, GEDIT_V2, IMGEDIT)}
