"""report.jsonl in the folder of edits: a line for each result, or for why there is none."""

import dataclasses
import json
from typing import Any

import msgspec
from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.files import is_file, replacing
from step1x_jax.json_files import LARGEST, parse_json

NAME = "report.jsonl"


@dataclasses.dataclass(frozen=True)
class Line:
    """The outcome of one result.

    Attributes:
      output: its name in the folder.
      image: path of its source.
      seed: of its noise.
      seconds: that it took.
      shift: pixels by which what was not edited has moved right and down; None: not measured.
      colour: levels of 255 by which mid-grey has changed there, for R, G, B.
      error: why there is no result.
    """

    output: str
    image: str
    seed: int
    seconds: float | None = None
    shift: tuple[float, float] | None = None
    colour: tuple[float, float, float] | None = None
    error: str | None = None


class EditReport:
    """The lines; written anew, as a whole, with each one that is added."""

    def __init__(self, folder: epath.PathLike):
        """Take over what earlier commands wrote there, but for lines that are none."""
        self.folder = epath.Path(folder)
        self.path = self.folder / NAME
        self._lines: dict[str, dict[str, Any]] = {}
        if is_file(self.path):
            for text in self.path.read_bytes()[:LARGEST].splitlines():
                try:
                    line = msgspec.convert(parse_json(text, NAME), Line)
                except (UserError, msgspec.ValidationError):
                    continue
                self._lines[line.output] = dataclasses.asdict(line)

    def add(self, line: Line) -> None:
        """Put a line at the end, in place of the one of the same result.

        Raises:
          UserError: the report cannot be written.
        """
        self._lines.pop(line.output, None)
        self._lines[line.output] = dataclasses.asdict(line)
        text = "".join(json.dumps(one) + "\n" for one in self._lines.values())
        with replacing(self.path) as temporary:
            temporary.write_text(text)
