"""Files of verdicts on pairs: RESULTS/pairs/JUDGE/, beside the methods' folders.

verdicts.jsonl has a row for each question asked, judge.json what is to be known of the judge and of
the methods' pictures. Both are written whole, the rows first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.method_pictures import PAIRS
from step1x_jax.evaluation.names import check_name
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict, read_verdicts, write_verdicts
from step1x_jax.files import find, is_file, user_path
from step1x_jax.json_files import build, read_json, write_json

ROWS, JUDGE = "verdicts.jsonl", "judge.json"
PICTURES = "pictures"  # in judge.json: method -> how many are missing, and unreadable


def pair_folder(results: str, judge: str) -> epath.Path:
    """Return the folder of a judge's verdicts on pairs.

    Args:
      results: folder of all methods, as the user gave it.
      judge: its name.

    Raises:
      UserError: the judge's name is no name of a folder.
    """
    check_name(judge, "the judge's name")
    return epath.Path(user_path(results)) / PAIRS / judge


def write_pairs(
    folder: epath.PathLike, verdicts: Sequence[PairVerdict], judge: Mapping[str, Any]
) -> None:
    """Write all verdicts of a judge, and what is to be known of it, in place of earlier ones.

    Raises:
      UserError: the files cannot be written.
    """
    folder = epath.Path(folder)
    write_verdicts(folder / ROWS, verdicts)
    write_json(folder / JUDGE, dict(judge))


def find_pair_judges(results: str) -> list[str]:
    """Names of the judges that have judged pairs, sorted.

    Args:
      results: folder of all methods, as the user gave it.

    Raises:
      UserError: there is none.
    """
    folder = epath.Path(user_path(results)) / PAIRS
    names = [one.name for one in find(folder, "[!.]*") if is_file(one / ROWS)]
    if not names:
        raise UserError(f"{folder} has no verdicts on pairs; first run judge --against.")
    return names


def read_pairs(folder: epath.PathLike) -> tuple[list[PairVerdict], dict[str, Any]]:
    """Read all verdicts of a judge, and the facts about it.

    Raises:
      UserError: a file is missing or has other contents.
    """
    folder = epath.Path(folder)
    verdicts, facts = read_verdicts(folder / ROWS), read_json(folder / JUDGE)
    build(dict[str, dict[str, int]], facts.get(PICTURES, {}), str(folder / JUDGE), PICTURES)
    return verdicts, facts
