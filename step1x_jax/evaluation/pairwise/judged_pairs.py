"""Pairs of pictures that people have judged, in the layouts in which they are published.

VCReward-Bench (ZhangqiJiang07/GEditBench_v2): a folder with metadata.jsonl, whose rows have key,
task, instruction, source_image, edited_images (two paths) and winner ("Image A"); about consistency
outside the edit. The same repository's list about visual quality has source_image_path and
edited_image_paths instead; its paths must first be made relative.

EditReward-Bench is the name of two data sets. EditScore's (VectorSpaceLab/EditScore, save_to_disk)
has key (two), task_type, dimension, instruction, input_image and output_images, of which people
preferred the first. TIGER's (TIGER-AI-Lab/EditReward, parquet) has id, instruction, source_image,
candidate_1, candidate_2, comparison_type ("BvsC") and ranking ("C>B"); 2-, 3- and 4-way rankings
are there as pairs.
"""

import collections
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation import tables
from step1x_jax.evaluation.benchmarks import GEDIT_V2, JudgeQuestion
from step1x_jax.evaluation.pairwise.replies import name_winner
from step1x_jax.evaluation.pairwise.verdicts import Winner
from step1x_jax.files import user_path
from step1x_jax.json_files import shown

OVERALL = JudgeQuestion("overall", ("source", "first", "second"), "pair_overall", answer="winner")
QUESTIONS = {question.name: question for question in (*GEDIT_V2.questions, OVERALL)}
RANKING = re.compile(r"([A-Z])([<>=])([A-Z])(?:=\w+)?")  # A=B=Good and A=B=Bad are ties
COMPARISON = re.compile(r"([A-Z])vs([A-Z])")


@dataclasses.dataclass(frozen=True)
class JudgedPair:
    """Two edits of a picture, and which of them people prefer.

    Attributes:
      key: identifies the pair within its dimension and task.
      task: kind of edit; "" if not known.
      dimension: in which it was judged, one of QUESTIONS.
      instruction: of the edit.
      source: reads the encoded source picture.
      first: reads the encoded first edit.
      second: reads the second one.
      preferred: by people.
    """

    key: str
    task: str
    dimension: str
    instruction: str
    source: Callable[[], bytes]
    first: Callable[[], bytes]
    second: Callable[[], bytes]
    preferred: Winner


@dataclasses.dataclass(frozen=True)
class PairTableLayout:
    """Where a table has what.

    Attributes:
      key: column of the key.
      source: column of the source picture.
      first: column of the first edit, and which one of it where it has lists.
      second: likewise.
      others: further columns without which a table is of another layout.
      task: column of the task; "" if there is none.
      optional: further columns that are read if they are there.
      dimension: from a row to the dimension.
      preferred: from a row to whom people prefer; None: the row does not say.
    """

    key: str
    source: str
    first: tuple[str, int | None]
    second: tuple[str, int | None]
    others: tuple[str, ...]
    dimension: Callable[[Mapping[str, Any]], Any]
    preferred: Callable[[Mapping[str, Any]], Winner | None]
    task: str = ""
    optional: tuple[str, ...] = ()

    @property
    def pictures(self) -> dict[str, str]:
        """Names of the pictures' columns; those of one list are there once."""
        return {"source": self.source, "first": self.first[0], "second": self.second[0]}

    @property
    def columns(self) -> set[str]:
        """Return all columns that a table must have."""
        named = {self.key, "instruction", self.task, *self.others, *self.pictures.values()}
        return named - {""}


def _by_ranking(row: Mapping[str, Any]) -> Winner | None:
    """Read TIGER's rows: the letters are those of the comparison, which is AvsB if not said."""
    of = COMPARISON.fullmatch(str(row.get("comparison_type") or "AvsB"))
    ranking = RANKING.fullmatch(str(row["ranking"]))
    if of is None or ranking is None or {of[1], of[2]} != {ranking[1], ranking[3]}:
        return None
    if ranking[2] == "=":
        return "tie"
    return "first" if (ranking[1] == of[1]) == (ranking[2] == ">") else "second"


_EDITSCORE = {
    "prompt_following": "instruction_following",
    "consistency": "visual_consistency",
    "overall": OVERALL.name,
}
LAYOUTS = (
    PairTableLayout(
        key="key",
        task="task",
        source="source_image",
        first=("edited_images", 0),
        second=("edited_images", 1),
        others=("winner",),
        dimension=lambda row: "visual_consistency",
        preferred=lambda row: name_winner(row["winner"]),
    ),
    PairTableLayout(
        key="key",
        source="source_image_path",
        first=("edited_image_paths", 0),
        second=("edited_image_paths", 1),
        others=("winner",),
        dimension=lambda row: "visual_quality",
        preferred=lambda row: name_winner(row["winner"]),
    ),
    PairTableLayout(
        key="key",
        task="task_type",
        source="input_image",
        first=("output_images", 0),
        second=("output_images", 1),
        others=("dimension",),
        dimension=lambda row: _EDITSCORE.get(row["dimension"]),
        preferred=lambda row: "first",
    ),
    PairTableLayout(
        key="id",
        source="source_image",
        first=("candidate_1", None),
        second=("candidate_2", None),
        others=("ranking",),
        optional=("comparison_type",),
        dimension=lambda row: OVERALL.name,
        preferred=_by_ranking,
    ),
)


def read_judged_pairs(path: str, dimensions: Sequence[str] = ()) -> list[JudgedPair]:
    """The pairs of a data set, in its order. No picture is read yet.

    Args:
      path: folder or file, see `tables.find_tables`.
      dimensions: that are wanted; empty: all.

    Raises:
      UserError: it cannot be read, is of no known layout, or a row says nothing that can be used.
    """
    tables.forget()
    pairs = []
    seen: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for file in tables.find_tables(epath.Path(user_path(path))):
        for name, values, _ in tables.read_rows(file, _find_columns):
            try:
                pair = _read_pair(file, values)
            except UserError as e:
                raise UserError(f"{name} of {path}: {e}; correct it, or leave it out.") from e
            identity = pair.dimension, pair.task, pair.key
            seen[identity] += 1
            if seen[identity] > 1:  # several people may have judged it
                pair = dataclasses.replace(pair, key=f"{pair.key} {seen[identity]}")
            pairs.append(pair)
    there = dict.fromkeys(pair.dimension for pair in pairs)
    unknown = [name for name in dimensions if name not in there]
    if unknown or not pairs:
        known = ", ".join(there) or "nothing"
        raise UserError(
            f"{path} has pairs judged in {known}, not in {', '.join(unknown) or 'any'}."
        )
    return [pair for pair in pairs if not dimensions or pair.dimension in dimensions]


def draw_pairs(pairs: Sequence[JudgedPair], limit: int | None) -> list[JudgedPair]:
    """So many of the pairs, in their order; which ones, a hash of each decides. None: all."""

    def number(i: int) -> bytes:
        pair = pairs[i]
        text = f"{pair.dimension}\n{pair.task}\n{pair.key}"
        return hashlib.sha256(text.encode()).digest()

    chosen = sorted(range(len(pairs)), key=number)[:limit]
    return [pairs[i] for i in sorted(chosen)]


def _find_layout(names: Sequence[str]) -> PairTableLayout | None:
    return next((one for one in LAYOUTS if one.columns <= set(names)), None)


def _find_columns(file: epath.Path, names: Sequence[str]) -> tables.Columns:
    layout = _find_layout(names)
    if layout is None:
        known = "; ".join(", ".join(sorted(one.columns)) for one in LAYOUTS)
        raise UserError(
            f"{file} has the columns {', '.join(names)}, which are of no data set of judged pairs"
            f" that is known; those have {known}."
        )
    fields = layout.columns - set(layout.pictures.values()) | {*layout.optional} & {*names}
    return tables.Columns({name: name for name in fields}, layout.pictures)


def _read_pair(file: epath.Path, values: Any) -> JudgedPair:
    if isinstance(values, UserError):
        raise values
    layout = _find_layout(list(values))
    if layout is None:
        raise UserError(f"it lacks columns of the first row, having {', '.join(values)}")
    key = values[layout.key]
    key = " ".join(map(str, key)) if isinstance(key, list) else key
    if layout.optional:
        key = f"{key} {' '.join(str(values.get(name) or '') for name in layout.optional)}".strip()
    task = values[layout.task] if layout.task else ""
    instruction = values["instruction"]
    for what, text in (("key", key), ("instruction", instruction), ("task", task or "none")):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"its {what} is {shown(text)}, not a text")
    dimension, preferred = layout.dimension(values), layout.preferred(values)
    if dimension not in QUESTIONS or preferred is None:
        said = {name: values.get(name) for name in (*layout.others, *layout.optional)}
        raise UserError(f"{shown(said)} names no dimension and winner that are known")
    read = functools.partial(tables.picture_reader, file)
    return JudgedPair(
        key=key,
        task=task or "",
        dimension=dimension,
        instruction=instruction,
        source=read(values[layout.source]),
        first=read(values[layout.first[0]], layout.first[1]),
        second=read(values[layout.second[0]], layout.second[1]),
        preferred=preferred,
    )
