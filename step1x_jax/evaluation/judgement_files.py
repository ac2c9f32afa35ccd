"""Files of judgements of a method's pictures: METHOD/judgements/JUDGE/, beside the pictures.

judgements.jsonl has a row for each judgement, judge.json what is to be known of the judge. Both are
written whole, the rows first.
"""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.evaluation.judgements import Judgement
from step1x_jax.evaluation.names import check_name
from step1x_jax.files import find, is_file, replacing
from step1x_jax.json_files import as_json, build, parse_json, read_json, write_json

FOLDER, ROWS, JUDGE = "judgements", "judgements.jsonl", "judge.json"
LARGEST = 1 << 30  # bytes of the rows


def judge_folder(method_folder: epath.PathLike, judge: str) -> epath.Path:
    """Return the folder of a judge's judgements of a method.

    Raises:
      UserError: the judge's name is no name of a folder.
    """
    check_name(judge, "the judge's name")
    return epath.Path(method_folder) / FOLDER / judge


def find_judges(method_folder: epath.PathLike) -> list[str]:
    """Names of the judges that have judged a method, sorted."""
    folders = find(epath.Path(method_folder) / FOLDER, "[!.]*")
    return [folder.name for folder in folders if is_file(folder / ROWS)]


def write_judgements(
    folder: epath.PathLike, judgements: Iterable[Judgement], judge: dict[str, Any]
) -> None:
    """Write all judgements of a judge, and what is to be known of it, in place of earlier ones.

    Args:
      folder: of `judge_folder`.
      judgements: of all samples and repeats.
      judge: values of JSON: names, dates, protocol, hash of the prompts.

    Raises:
      UserError: the files cannot be written.
    """
    folder = epath.Path(folder)
    lines = (json.dumps(as_json(one), ensure_ascii=False) + "\n" for one in judgements)
    with replacing(folder / ROWS) as temporary:
        temporary.write_text("".join(lines))
    write_json(folder / JUDGE, judge)


def read_judgements(folder: epath.PathLike) -> tuple[list[Judgement], dict[str, Any]]:
    """Read all judgements of a judge, and the facts about it.

    Raises:
      UserError: a file is missing or has other contents; names the line.
    """
    folder = epath.Path(folder)
    path = folder / ROWS
    judge = read_json(folder / JUDGE)
    judgements: list[Judgement] = []
    seen = set()
    for number, line in enumerate(read_input_file(path, "judgements", LARGEST).splitlines(), 1):
        source = f"{path}, line {number}"
        one = build(Judgement, parse_json(line, source), source)
        if (one.id, one.repeat) in seen:
            raise UserError(f"{source} judges {'/'.join(one.id)} for a second time; remove it.")
        seen.add((one.id, one.repeat))
        judgements.append(one)
    return judgements, judge
