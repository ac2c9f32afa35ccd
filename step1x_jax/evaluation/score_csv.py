"""The official harness's tables of scores, in both of their published forms.

ROOT/METHOD/BACKBONE/METHOD_TASK_{all|en|cn}_vie_score.csv (since mid-2025) and
ROOT/METHOD/BACKBONE/eval_results_new/METHOD_TASK_gpt_score.csv (April 2025), where BACKBONE is the
judge. A row has a sample's minima, not the judge's numbers; samples without scores have no row.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.datasets import LANGUAGES
from step1x_jax.evaluation.judgement_files import (
    ROWS,
    judge_folder,
    read_judgements,
    write_judgements,
)
from step1x_jax.evaluation.judgements import Judgement, Status
from step1x_jax.evaluation.method_pictures import FULLSET
from step1x_jax.evaluation.names import check_name, is_name
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.files import find, is_file, replacing
from step1x_jax.json_files import shown

LARGEST = 64 << 20  # bytes of a table
SOURCE = "_SRCIMG.png"  # after the key in the name of a saved source picture

SCORES = ("sementics_score", "quality_score")  # the first is spelled so
COMMON = ("edited_image", "instruction", *SCORES, "intersection_exist", "instruction_language")
# Folder below BACKBONE, ending of the files, columns. Of several that are there the first counts.
FORMS = (
    ("", "_all_vie_score.csv", ("key", *COMMON)),
    ("", "_en_vie_score.csv", ("key", *COMMON)),
    ("", "_cn_vie_score.csv", ("key", *COMMON)),
    ("eval_results_new", "_gpt_score.csv", ("source_image", *COMMON)),
)
ALL, APRIL = FORMS[0], FORMS[-1]
READ_TOGETHER = ((ALL,), FORMS[1:3], (APRIL,))


def find_backbones(root: epath.PathLike, method: str) -> list[str]:
    """The judges of which there are tables of a method, sorted."""
    check_name(method, "the method's name")
    folders = find(epath.Path(root) / method, "[!.]*")
    return [folder.name for folder in folders if _tables(folder, method)]


def read_score_csv(root: epath.PathLike, method: str, backbone: str) -> list[Judgement]:
    """A method's scores by a judge.

    A sample's one semantics number is the published minimum, and so is its quality. A score that is
    missing makes the sample "failed", one that is no number from 0 to 10 makes it "unparsable".

    Args:
      root: folder of all methods.
      method: its name.
      backbone: the judge's name.

    Raises:
      UserError: there is no table, it lacks columns, or a row names no sample or one again.
    """
    tables = _tables(epath.Path(root) / method / backbone, method)
    if not tables:
        raise UserError(
            f"{epath.Path(root) / method / backbone} has no {method}_TASK_all_vie_score.csv or"
            f" {APRIL[0]}/{method}_TASK{APRIL[1]}; give the folder above the method's."
        )
    judgements: dict[SampleId, Judgement] = {}
    for file, task, columns in tables:
        for number, row in enumerate(_read(file, columns), 2):
            one = _judgement(row, task, columns[0], f"{file}, line {number}")
            if one.id in judgements:
                raise UserError(f"{file} has a second row of {'/'.join(one.id)}; remove one.")
            judgements[one.id] = one
    return list(judgements.values())


def import_score_csv(root: epath.PathLike, method: str, folder: epath.PathLike) -> list[str]:
    """Take a method's tables of all judges into our folder of its results.

    Args:
      root: folder of all methods with tables.
      method: its name.
      folder: of its results.

    Returns:
      Names of the judges.

    Raises:
      UserError: there are none, see `read_score_csv`, or other judgements of that judge are there.
    """
    backbones = find_backbones(root, method)
    if not backbones:
        raise UserError(
            f"{root} has no tables of scores of {method}; give the folder above its own."
        )
    for backbone in backbones:
        judgements = read_score_csv(root, method, backbone)
        place = judge_folder(folder, backbone)
        if is_file(place / ROWS):
            before, _ = read_judgements(place)
            if sorted(before, key=_order) != sorted(judgements, key=_order):
                raise UserError(
                    f"{place} has other judgements than the tables in {root}; remove it, or give"
                    " another --results."
                )
        else:
            judge = {"judge": backbone, "from": "official score tables, minima alone"}
            write_judgements(place, judgements, judge)
    return backbones


def _order(one: Judgement) -> tuple[SampleId, int]:
    return one.id, one.repeat


def _tables(folder: epath.Path, method: str) -> list[tuple[epath.Path, str, Sequence[str]]]:
    """Files of the first form that is there, with the task and the columns of each."""
    for forms in READ_TOGETHER:
        found: list[tuple[epath.Path, str, Sequence[str]]] = []
        for place, ending, columns in forms:
            for task in GEDIT.tasks:
                file = folder / place / f"{method}_{task}{ending}"
                if is_file(file):
                    found.append((file, task, columns))
        if found:
            return found
    return []


def _read(file: epath.Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    data = read_input_file(file, "a table of scores", LARGEST)
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{file} is no CSV table in UTF-8 ({e}); write it again.") from e
    there = list(reader.fieldnames or [])
    needed = [name for name in columns if name not in ("edited_image", "instruction")]
    if missing := [name for name in needed if name not in there]:
        raise UserError(
            f"{file} has the columns {', '.join(there) or '(none)'}, without {', '.join(missing)};"
            " give an official table of scores."
        )
    return rows


def _judgement(row: Mapping[str, Any], task: str, key_column: str, source: str) -> Judgement:
    key = (row[key_column] or "").rsplit("/", 1)[-1].removesuffix(SOURCE)
    language = row["instruction_language"] or ""
    language = LANGUAGES.get(language, language)
    if not is_name(key) or language not in GEDIT.languages:
        raise UserError(
            f"{source}: {key_column} is {shown(row[key_column])} and instruction_language"
            f" {shown(row['instruction_language'])}; give a key and one of"
            f" {', '.join(GEDIT.languages)}."
        )
    flag = (row["intersection_exist"] or "").strip().lower()
    if flag not in ("", "true", "false", "1", "0", "1.0", "0.0"):
        raise UserError(f"{source}: intersection_exist is {shown(flag)}; give True or False.")
    status, scores = _scores([row[name] for name in SCORES])
    # The official script counts a blank cell as inside.
    inside = flag not in ("false", "0", "0.0")
    return Judgement(SampleId(task, language, key), status, scores, inside)


def _scores(cells: Sequence[str | None]) -> tuple[Status, dict[str, tuple[float, ...]]]:
    if any(cell is None or cell.strip().lower() in ("", "nan") for cell in cells):
        return "failed", {}
    try:
        semantics, quality = (float(cell or "") for cell in cells)
    except ValueError:
        return "unparsable", {}
    if not all(math.isfinite(x) and 0 <= x <= 10 for x in (semantics, quality)):
        return "unparsable", {}
    return "ok", {"semantics": (semantics,), "quality": (quality,)}


def write_score_csv(
    root: epath.PathLike,
    method: str,
    backbone: str,
    judgements: Iterable[Judgement],
) -> None:
    """Write both forms, as the official script of averages reads them; instructions are blank.

    Args:
      root: folder of all methods.
      method: its name.
      backbone: the judge's name.
      judgements: of the first repeat those that are "ok" are written.

    Raises:
      UserError: a file cannot be written.
    """
    check_name(method, "the method's name")
    check_name(backbone, "the judge's name")
    folder = epath.Path(root) / method / backbone
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(judgements, key=lambda one: one.id):
        if one.status != "ok" or one.repeat != 0:
            continue
        task, language, key = one.id
        place = f"{method}/{FULLSET}/{task}/{language}/{key}"
        minima = [min(one.scores[name]) for name in ("semantics", "quality")]
        rows.setdefault(task, []).append(
            {
                "key": key,
                "source_image": place + SOURCE,
                "edited_image": f"{place}.png",
                "instruction": "",
                **dict(zip(SCORES, minima, strict=True)),
                "intersection_exist": "" if one.intersection is None else one.intersection,
                "instruction_language": language,
            }
        )
    for place, ending, columns in (ALL, APRIL):
        for task, ones in rows.items():
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(ones)
            with replacing(folder / place / f"{method}_{task}{ending}") as temporary:
                temporary.write_bytes(text.getvalue().encode())
