"""The words in which a judge is asked: ours, or those of the published file.

Ours are assets/evaluation/prompts/. The published file (vie_prompts.py of stepfun-ai/Step1X-Edit,
GEdit-Bench/viescore) is Python; of it only assignments of literal texts are read.
"""

import ast
import dataclasses
import hashlib
import re
from collections.abc import Mapping

from etils import epath

import step1x_jax
from step1x_jax.conditioning.input_files import read_input_file
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import GEDIT, Benchmark, JudgeQuestion
from step1x_jax.json_files import shown

FOLDER = epath.Path(step1x_jax.__file__).parent / "assets" / "evaluation" / "prompts"
LARGEST = 1 << 20  # bytes of a file of prompts
OURS = "ours"
INSTRUCTION, CRITERIA = "instruction", "{criteria}"
_PLACE = re.compile(r"\{(\w+)\}")
PUBLISHED_INSTRUCTION = "<instruction>"
# GEdit-Bench's questions -> what the published harness joins by newlines.
PUBLISHED = {
    "semantics": (
        "_context_no_delimit",
        "_prompts_0shot_two_image_edit_rule",
        "_prompts_0shot_tie_rule_SC",
    ),
    "quality": ("_context_no_delimit", "_prompts_0shot_rule_PQ"),
}


@dataclasses.dataclass(frozen=True)
class JudgePrompts:
    """The questions of a benchmark in words.

    Attributes:
      texts: question's name -> task -> text; the task is "" where one text is for all.
      source: OURS, or the name of the published file.
    """

    texts: Mapping[str, Mapping[str, str]]
    source: str

    def text(
        self,
        question: JudgeQuestion,
        task: str,
        instruction: str,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Return the text that a judge is asked.

        Args:
          question: of the benchmark.
          task: of the sample.
          instruction: of the sample.
          extra: the sample's texts in other columns, by column.

        Raises:
          UserError: the benchmark has no criteria for this task, or a column is missing.
        """
        texts = self.texts[question.name]
        text = texts.get(task if question.criteria else "")
        if text is None:
            raise UserError(
                f"there are no criteria for the task {shown(task)}; those with some are"
                f" {', '.join(texts)}."
            )
        if self.source != OURS:
            return text.replace(PUBLISHED_INSTRUCTION, instruction)
        values = {**(extra or {}), INSTRUCTION: instruction}

        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise UserError(
                    f"the question {question.name} needs the column {match[1]} of text; give a data"
                    " set that has it."
                )
            return values[match[1]]

        return _PLACE.sub(value, text)  # at once: what is put in is not looked at

    @property
    def fingerprint(self) -> str:
        """12 hex digits, equal where all texts are equal."""
        every = sorted(
            f"{question}\n{task}\n{text}"
            for question, texts in self.texts.items()
            for task, text in texts.items()
        )
        return hashlib.sha256("\0".join(every).encode()).hexdigest()[:12]


def read_prompts(benchmark: Benchmark, published: epath.PathLike | None = None) -> JudgePrompts:
    """Our words for a benchmark's questions, or those of the published file.

    Args:
      benchmark: whose.
      published: path of vie_prompts.py.

    Raises:
      UserError: the file cannot be read, lacks one of the texts, or is none of this benchmark.
    """
    if published is not None:
        if benchmark.name != GEDIT.name:
            raise UserError(
                f"--prompt_file is of {GEDIT.name}; leave it out with --benchmark={benchmark.name}."
            )
        return _read_published(published)
    texts = {}
    for question in benchmark.questions:
        text = _read_own(question.prompt)
        texts[question.name] = {
            task: text.replace(CRITERIA, _read_own(file).rstrip())
            for task, file in question.criteria.items()
        } or {"": text}
    return JudgePrompts(texts, OURS)


def _read_own(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text()


def _read_published(path: epath.PathLike) -> JudgePrompts:
    literals = read_literals(path)
    texts = {}
    for question, names in PUBLISHED.items():
        missing = [name for name in names if name not in literals]
        if missing:
            raise UserError(
                f"{path} assigns no literal text to {missing[0]}; give the published"
                " vie_prompts.py."
            )
        texts[question] = {"": "\n".join(literals[name] for name in names)}
    return JudgePrompts(texts, epath.Path(path).name)


def read_literals(path: epath.PathLike) -> dict[str, str]:
    """The texts that a Python file assigns to names at its top; nothing in it is executed.

    Raises:
      UserError: it cannot be read, or is no Python.
    """
    data = read_input_file(path, "a file of prompts", LARGEST)
    try:
        module = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise UserError(f"{path} is no Python file ({e}); give vie_prompts.py.") from e
    literals = {}
    for statement in module.body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    literals[target.id] = statement.value.value
    return literals
