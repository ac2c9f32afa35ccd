"""A function as a judge: reward models and whatever else has no chat API.

--judge=module:function names a function (source, edited, instruction) -> {question: numbers} with
two PIL pictures in RGB, as large as their files, and a text. It gives each of the benchmark's
questions its numbers within their bounds: for GEdit-Bench {"semantics": [7, 9], "quality": [8, 8]}.
Replies are kept like any other judge's; --model names the version whose replies they are.
"""

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from step1x_jax.asking.exchange import Ask, NoReply, QuestionPicture, Reply, Served
from step1x_jax.conditioning.images import decode_image
from step1x_jax.errors import UserError
from step1x_jax.json_files import SHOWN

Scorer = Callable[[Image.Image, Image.Image, str], Mapping[str, Sequence[float]]]


def load_function(place: str) -> Scorer:
    """The function that module:function names; its module is imported.

    Raises:
      UserError: there is no such module or function.
    """
    module, _, name = place.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise UserError(f"--judge={place} cannot be imported ({e}); check both names.") from e
    if not callable(function):
        raise UserError(f"--judge={place} is no function; give one.")
    return function


class FunctionJudge:
    """Asks a function; a question is a source, an edited picture and an instruction."""

    host = ""

    def __init__(self, place: str, version: str):
        """Import it.

        Args:
          place: module:function.
          version: what its replies are kept under, beside its place.

        Raises:
          UserError: see `load_function`.
        """
        self._function = load_function(place)
        self.parameters: Mapping[str, Any] = {"model": f"{place} {version}".strip()}

    def close(self) -> None:
        """Nothing is open."""

    def describe(self) -> Served:
        """Nobody serves it."""
        return Served()

    def answer(self, ask: Ask, attempt: int) -> Reply:
        """See `Respondent`; the reply's text is the function's result as JSON."""
        source, edited, instruction = ask.parts
        assert isinstance(source, QuestionPicture)
        assert isinstance(edited, QuestionPicture)
        assert isinstance(instruction, str)
        begun = time.monotonic()
        try:
            scores = self._function(
                decode_image(source.encode(), "the source"),
                decode_image(edited.encode(), "the edited picture"),
                instruction,
            )
            text = json.dumps({name: [float(x) for x in scores[name]] for name in scores})
        except Exception as e:  # of somebody else's code
            raise NoReply(f"{type(e).__name__}: {e}"[:SHOWN], again=False) from e
        seconds = round(time.monotonic() - begun, 3)
        return Reply(text, model=self.parameters["model"], seconds=seconds)
