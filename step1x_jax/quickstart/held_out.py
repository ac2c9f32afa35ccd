"""The held-out edits of the quickstart, made from photographs that are not trained on.

launch.curate export writes them as held_out.jsonl for configs/curate_quickstart.py.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.json_files import build, parse_json

FILE = "held_out.jsonl"
PHOTOGRAPHS = ("chelsea", "china")  # used in no training stage, including the autoencoder's
LANGUAGES = ("en", "cn")


@dataclasses.dataclass(frozen=True)
class HeldOutEdit:
    """One held-out edit.

    Attributes:
      crop: SHA-256 of the crop of a photograph that is edited.
      kind: name of the plain edit (curation/embedded/plain.py).
      language: "en" or "cn".
      instruction: the instruction in that language.
      source: path of the crop.
      target: path of the true edit.
    """

    crop: str
    kind: str
    language: str
    instruction: str
    source: str
    target: str


def read_held_out(folder: epath.PathLike) -> list[HeldOutEdit]:
    """Read the edits of a list in order, each in one language, alternating by crop and kind.

    Args:
      folder: the folder of FILE and the pictures.

    Raises:
      UserError: there is no list, or a line does not have the format of launch.curate.
    """
    folder = epath.Path(folder)
    path = folder / FILE
    if not path.exists():
        raise UserError(
            f"{path} is missing: run python -m launch.curate export"
            " --config=configs/curate_quickstart.py first."
        )
    edits = list(_read_lines(path))
    crops = list(dict.fromkeys(edit.crop for edit in edits))
    kinds = list(dict.fromkeys(edit.kind for edit in edits))
    return [
        dataclasses.replace(
            edit, source=str(folder / edit.source), target=str(folder / edit.target)
        )
        for edit in edits
        if edit.language == LANGUAGES[(crops.index(edit.crop) + kinds.index(edit.kind)) % 2]
    ]


def _read_lines(path: epath.Path) -> Iterator[HeldOutEdit]:
    for number, line in enumerate(path.read_bytes().decode().splitlines(), 1):
        where = f"{path} line {number}"
        row = build(dict[str, Any], parse_json(line, where), where)
        try:
            values = {
                "crop": row["photograph_sha256"],
                "kind": row["method"].removeprefix("plain/"),
                **{name: row[name] for name in ("language", "instruction", "source", "target")},
            }
        except (KeyError, AttributeError) as e:
            raise UserError(
                f"{where} does not have the format of launch.curate export ({e}); remove the folder"
                " and export again."
            ) from e
        yield build(HeldOutEdit, values, where)
