"""A benchmark's questions about a sample as a judge is asked them, and its answers as numbers."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from step1x_jax.evaluation.benchmarks import Benchmark, Question
from step1x_jax.evaluation.judging.exchange import Ask, Picture
from step1x_jax.evaluation.judging.judges import is_function
from step1x_jax.evaluation.judging.parsing import (
    answer_schema,
    find_scores,
    strip_reasoning,
    valid_numbers,
)
from step1x_jax.evaluation.judging.pictures import (
    original,
    picture_size,
    picture_to_send,
    sent_size,
)
from step1x_jax.evaluation.judging.presets import JudgePreset, Protocol
from step1x_jax.evaluation.judging.prompts import Prompts
from step1x_jax.evaluation.samples import Sample

Scores = Mapping[str, tuple[float, ...]]  # question -> its numbers


def source_column(benchmark: Benchmark, protocol: Protocol) -> str:
    """The source picture that a judge sees: what the protocol says, or the benchmark's default.

    GEdit-Bench has two: input_image, which models are fed and source_size shows, and
    input_image_raw, which area512 shows.
    """
    if protocol == "area512" and "input_image_raw" in benchmark.pictures:
        return "input_image_raw"
    return next(iter(benchmark.pictures))


class Questions:
    """Makes a benchmark's questions for one judge, and reads its replies.

    The subject of each `Ask` is (sample's id, names of the questions that it answers).
    """

    def __init__(
        self,
        benchmark: Benchmark,
        prompts: Prompts,
        preset: JudgePreset,
        protocol: Protocol,
        *,
        accept_single: bool = False,
    ):
        """Nothing is read yet.

        Args:
          benchmark: whose questions.
          prompts: in these words.
          preset: the judge's.
          protocol: how pictures are resized; a function gets them as they are.
          accept_single: see `valid_numbers`.
        """
        self._questions = {question.name: question for question in benchmark.questions}
        self._prompts = prompts
        self._preset = preset
        self._protocol = protocol
        self._accept_single = accept_single

    @property
    def calls(self) -> int:
        """Questions to the judge about one sample."""
        return 1 if is_function(self._preset.name) else len(self._questions)

    def ask_about(self, sample: Sample, source: bytes, edited: bytes, repeats: int) -> list[Ask]:
        """The questions about one picture, each of them `repeats` times.

        Args:
          sample: which one.
          source: the file of its source.
          edited: the file of the method's picture.
          repeats: 1 and up.

        Raises:
          UserError: a picture cannot be decoded, or there are no criteria for the sample's task.
        """
        name = "/".join(filter(None, sample.id))
        if is_function(self._preset.name):
            parts = (original(source), original(edited), sample.instruction)
            asks = [Ask(name, parts, subject=(sample.id, (*self._questions,)))]
        else:
            asks = self._ask_in_words(name, sample, source, edited)
        return [dataclasses.replace(ask, repeat=n) for n in range(repeats) for ask in asks]

    def _ask_in_words(self, name: str, sample: Sample, source: bytes, edited: bytes) -> list[Ask]:
        of_source, of_edited = f"the source of {name}", f"the picture of {name}"
        size = picture_size(source, of_source)
        sizes = [
            sent_size(one, self._protocol, size) for one in (size, picture_size(edited, of_edited))
        ]
        sent = {
            "source": picture_to_send(source, of_source, sizes[0], self._preset),
            "edited": picture_to_send(edited, of_edited, sizes[1], self._preset),
        }
        asks = []
        for question in self._questions.values():
            text = self._prompts.text(question, sample.id.task, sample.instruction)
            shown = [sent[picture] for picture in question.pictures]
            parts: tuple[str | Picture, ...]
            parts = (*shown, text) if self._preset.order == "pictures" else (text, *shown)
            subject = (sample.id, (question.name,))
            asks.append(
                Ask(
                    f"{name} {question.name}",
                    parts,
                    schema=answer_schema(question),
                    subject=subject,
                )
            )
        return asks

    def parse(self, ask: Ask, text: str) -> Scores | None:
        """The numbers in a reply, of all questions that it answers; None: it does not count."""
        _, names = ask.subject
        if is_function(self._preset.name):
            found = json.loads(text)  # as FunctionJudge has written it
            if found.keys() != set(names):
                return None
        else:
            if self._preset.strip_reasoning:
                text = strip_reasoning(text)
            found = {names[0]: find_scores(text)}
        scores = {}
        for name in names:
            numbers = self._valid(found[name], self._questions[name])
            if numbers is None:
                return None
            scores[name] = numbers
        return scores

    def _valid(self, scores: Any, question: Question) -> tuple[float, ...] | None:
        return valid_numbers(scores, question, accept_single=self._accept_single)
