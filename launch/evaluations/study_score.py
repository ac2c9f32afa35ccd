"""Join people's answers with a study's key: launch/guides/evaluate.md.

python -m launch.evaluate study score --key=key.json --answers=answers/ --output=study.json

Worst counts 2, poor 4, fair 6, good 8, excellent 10. Prints tables; --output has them unrounded.
"""

import os
from collections.abc import Sequence

from absl import flags
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation.study.answers import read_answers
from step1x_jax.evaluation.study.key import read_key
from step1x_jax.evaluation.study.score import score_study
from step1x_jax.evaluation.study.tables import study_to_json, study_to_markdown
from step1x_jax.files import find, user_path
from step1x_jax.json_files import write_json

_KEY = flags.DEFINE_string("key", None, "The study's key.", required=True)
_ANSWERS = flags.DEFINE_multi_string(
    "answers",
    None,
    "A file that a page exported, or a folder of such; may be given several times.",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for all numbers.")


def main() -> None:
    """Read, scores and print."""
    key = read_key(user_path(_KEY.value))
    answers = read_answers(find_answers(_ANSWERS.value), key)
    rows = score_study(key, answers)
    print(study_to_markdown(key, answers, rows), end="")
    if _OUTPUT.value:
        write_json(user_path(_OUTPUT.value), study_to_json(key, answers, rows))


def find_answers(places: Sequence[str]) -> list[epath.PathLike]:
    """The files that are named, and the JSON files of the folders that are.

    Raises:
      UserError: there is none.
    """
    files: list[epath.PathLike] = []
    for place in map(user_path, places):
        files += find(place, "*.json") if epath.Path(place).is_dir() else [place]
    if not files:
        raise UserError(
            f"{' and '.join(map(os.fspath, places))} has no JSON files; give those that"
            " participants have downloaded."
        )
    return files
