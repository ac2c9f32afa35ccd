"""Questions about two pictures of one sample, as a judge is asked them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from step1x_jax.asking.exchange import Ask, QuestionPicture
from step1x_jax.asking.pictures import picture_size, picture_to_send
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT_V2, JudgeQuestion
from step1x_jax.evaluation.judging.judges import is_function
from step1x_jax.evaluation.judging.pictures import sent_size
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.evaluation.judging.prompts import JudgePrompts, read_prompts
from step1x_jax.evaluation.pairwise.replies import SCHEMA, find_winner
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict, Winner
from step1x_jax.evaluation.samples import SampleId

Orders = Literal["both", "one"]
QUESTIONS = GEDIT_V2.questions  # of the data set of any benchmark
PROTOCOL: Literal["long1024"] = "long1024"
SHOWN = {"source": "Source picture:", "first": "Image A:", "second": "Image B:"}
FINGERPRINT = 16  # hex digits of a picture's SHA-256 in a verdict


class Shown(NamedTuple):
    """A picture that judges see.

    Attributes:
      fingerprint: of its file.
      picture: as it is sent.
    """

    fingerprint: str
    picture: QuestionPicture


def for_pairs(preset: JudgePreset) -> JudgePreset:
    """The preset of a judge that is shown pairs: always PNG, as GEditBench v2 sends them."""
    return dataclasses.replace(preset, picture_format="PNG")


def check_can_compare(preset: JudgePreset) -> None:
    """Raise UserError if a judge is a function, which scores pictures one by one."""
    if is_function(preset.name):
        raise UserError(
            f"--judge={preset.name} scores pictures one by one; pairs need a judge that answers in"
            " words."
        )


def show(data: bytes, name: str, preset: JudgePreset) -> Shown:
    """A picture in RGB, its longer side at most 1024 pixels.

    Args:
      data: of its file.
      name: of the picture, in error messages.
      preset: of `for_pairs`.

    Raises:
      UserError: it cannot be decoded.
    """
    size = picture_size(data, name)
    picture = picture_to_send(data, name, sent_size(size, PROTOCOL, size), preset)
    return Shown(hashlib.sha256(data).hexdigest()[:FINGERPRINT], picture)


def prompts_for(questions: Sequence[JudgeQuestion]) -> JudgePrompts:
    """Our words for these questions."""
    return read_prompts(dataclasses.replace(GEDIT_V2, questions=tuple(questions)))


def ordered(sample: SampleId, dimension: str, one: str, other: str, orders: Orders) -> list[str]:
    """Return whose picture is first, in each order in which a pair is shown.

    Of one order, chance decides: a hash of the sample, the dimension and both names, so that it is
    the same in every run, and no method is first more often than another.
    """
    names = sorted((one, other))
    if orders == "both":
        return names
    digest = hashlib.sha256("\n".join((*sample, dimension, *names)).encode()).digest()
    return [names[digest[0] % 2]]


def ask_about_pair(
    sample: SampleId,
    instruction: str,
    source: Shown,
    pictures: Mapping[str, Shown],
    questions: Sequence[JudgeQuestion],
    prompts: JudgePrompts,
    orders: Orders,
) -> Iterator[tuple[PairVerdict, Ask | None]]:
    """Yield all questions about two pictures of a sample.

    Args:
      sample: which one.
      instruction: its instruction.
      source: its source picture.
      pictures: method -> its picture, of two methods.
      questions: of each pair.
      prompts: in these words.
      orders: in which the pair is shown.

    Yields:
      A verdict whose winner is open, and the question whose subject it is; or a tie, and no
      question, where both pictures are the same file: nobody could tell them apart.
    """
    one, other = pictures
    for question in questions:
        text = prompts.text(question, sample.task, instruction)
        for first in ordered(sample, question.name, one, other, orders):
            second = other if first == one else one
            verdict = PairVerdict(
                dimension=question.name,
                task=sample.task,
                key=sample.key,
                first=first,
                second=second,
                winner=None,
                language=sample.language,
                pictures=(pictures[first].fingerprint, pictures[second].fingerprint),
            )
            if verdict.identical:
                yield dataclasses.replace(verdict, winner="tie"), None
                continue
            shown = {"source": source, "first": pictures[first], "second": pictures[second]}
            parts: list[str | QuestionPicture] = [text]
            for picture in question.pictures:
                parts += [SHOWN[picture], shown[picture].picture]
            name = "/".join((question.name, *filter(None, sample), first, second))
            yield verdict, Ask(name, tuple(parts), schema=SCHEMA, subject=verdict)


def parse(ask: Ask, text: str) -> Winner | None:
    """The winner in a reply; None: it does not count."""
    del ask
    return find_winner(text)
