"""The edits that a small model knows, as its folder lists them: a word on any other instruction.

edits.json beside transformer/, autoencoder/ and encoder/: {"edits": [["Make it night", "改成夜景",
...], ...]}, a list of wordings for each edit.
"""

import re
from collections.abc import Sequence

from absl import logging
from etils import epath

from step1x_jax.files import is_file
from step1x_jax.json_files import build, read_json

FILE = "edits.json"

Edits = Sequence[Sequence[str]]  # wordings of each


def read_known_edits(folder: epath.PathLike) -> Edits:
    """The edits that a model's folder lists; empty: it says nothing, as a model that knows all.

    Raises:
      UserError: the list is damaged.
    """
    path = epath.Path(folder) / FILE
    if not is_file(path):
        return ()
    return build(list[list[str]], read_json(path).get("edits"), str(path), "edits")


def warn_of_unknown(instructions: Sequence[str], known: Edits) -> None:
    """Warn of each instruction that is none of the known edits; list these, once."""
    wordings = {_letters(text) for texts in known for text in texts}
    unknown = [text for text in dict.fromkeys(instructions) if _letters(text) not in wordings]
    if known and unknown:
        logging.warning(
            "This small model knows %d edits, and %s is none of them: the result may be anything."
            " It knows: %s.",
            len(known),
            ", ".join(f"{text!r:.80}" for text in unknown),
            "; ".join(texts[0] for texts in known),
        )


def _letters(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
