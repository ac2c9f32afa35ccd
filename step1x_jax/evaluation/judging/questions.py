"""A benchmark's questions about a sample as a judge is asked them, and its answers as numbers."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from step1x_jax.asking.exchange import Ask, QuestionPicture
from step1x_jax.asking.pictures import picture_to_send
from step1x_jax.asking.replies import strip_reasoning
from step1x_jax.evaluation.benchmarks import Benchmark, JudgeQuestion
from step1x_jax.evaluation.judging.judges import is_function
from step1x_jax.evaluation.judging.parsing import (
    answer_schema,
    find_scores,
    valid_numbers,
)
from step1x_jax.evaluation.judging.pictures import (
    Decodable,
    original,
    sent_size,
)
from step1x_jax.evaluation.judging.presets import JudgePreset, Protocol
from step1x_jax.evaluation.judging.prompts import JudgePrompts
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
        prompts: JudgePrompts,
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

    def of_task(self, task: str) -> list[JudgeQuestion]:
        """Return the questions about samples of a task."""
        every = self._questions.values()
        return [question for question in every if not question.tasks or task in question.tasks]

    def calls(self, task: str) -> int:
        """Questions to the judge about one sample of a task."""
        return 1 if is_function(self._preset.name) else len(self.of_task(task))

    def ask_about(
        self, sample: Sample, source: Decodable, edited: Decodable, repeats: int
    ) -> list[Ask]:
        """The questions about one picture, each of them `repeats` times.

        Args:
          sample: which one.
          source: the file of its source.
          edited: the file of the method's picture.
          repeats: 1 and up.

        Raises:
          UserError: there are no criteria for the sample's task, or a column is missing.
        """
        name = "/".join(filter(None, sample.id))
        if is_function(self._preset.name):
            parts = (original(source.data), original(edited.data), sample.instruction)
            names = tuple(question.name for question in self.of_task(sample.id.task))
            asks = [Ask(name, parts, subject=(sample.id, names))]
        else:
            asks = self._ask_in_words(name, sample, source, edited)
        return [dataclasses.replace(ask, repeat=n) for n in range(repeats) for ask in asks]

    def _ask_in_words(
        self, name: str, sample: Sample, source: Decodable, edited: Decodable
    ) -> list[Ask]:
        size = sent_size(source.size, self._protocol, source.size)
        edited_size = sent_size(edited.size, self._protocol, source.size)
        sent = {
            "source": picture_to_send(source.data, f"the source of {name}", size, self._preset),
            "edited": picture_to_send(
                edited.data, f"the picture of {name}", edited_size, self._preset
            ),
        }
        asks = []
        for question in self.of_task(sample.id.task):
            text = self._prompts.text(question, sample.id.task, sample.instruction, sample.extra)
            shown = [sent[picture] for picture in question.pictures]
            parts: tuple[str | QuestionPicture, ...]
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

    def _valid(self, scores: Any, question: JudgeQuestion) -> tuple[float, ...] | None:
        return valid_numbers(scores, question, accept_single=self._accept_single)
