"""Judging a method's pictures: from samples and files to judgements.jsonl and judge.json.

Beside them is replies.jsonl, by which a run that was killed goes on where it was.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.asking.ask import AskEstimate, AskLimits, AskResult, ask_all, plan_asking
from step1x_jax.asking.cache import look_into_cache, open_cache
from step1x_jax.asking.exchange import Ask, Respondent
from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.judgement_files import JUDGE, ROWS, read_judgements, write_judgements
from step1x_jax.evaluation.judgements import Judgement, Status
from step1x_jax.evaluation.judging.facts import ANOTHER, check_same_judge, judge_facts
from step1x_jax.evaluation.judging.judges import is_function
from step1x_jax.evaluation.judging.pictures import check_decodable
from step1x_jax.evaluation.judging.presets import JudgePreset, Protocol
from step1x_jax.evaluation.judging.prompts import JudgePrompts
from step1x_jax.evaluation.judging.questions import Questions, Scores
from step1x_jax.evaluation.judging.tally import Tally, show_progress
from step1x_jax.evaluation.method_pictures import find_pictures
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.files import is_file

# What all judgements in one folder have in common, of judge.json.
SETTINGS = (
    "judge",
    "model",
    "parameters",
    "benchmark",
    "source",
    "protocol",
    "prompt_hash",
    "accept_single",
)
# If a sample's questions end differently, the end that another run may fix is reported.
_TOLD_FIRST: tuple[Status, ...] = ("failed", "refused", "unparsable")


@dataclasses.dataclass(frozen=True)
class JudgeRun:
    """The pictures to judge, and how.

    Attributes:
      benchmark: whose questions.
      method_folder: of the method's pictures.
      folder: where judgements go, see `judge_folder`.
      preset: the judge's.
      prompts: its questions in words.
      protocol: how pictures are resized.
      source: the column of the source picture that the judge sees.
      repeats: how often each picture is judged.
      accept_single: whether one number counts for all.
    """

    benchmark: Benchmark
    method_folder: epath.Path
    folder: epath.Path
    preset: JudgePreset
    prompts: JudgePrompts
    protocol: Protocol
    source: str
    repeats: int = 1
    accept_single: bool = False

    @property
    def questions(self) -> Questions:
        """The questions, and how replies to them are read."""
        return Questions(
            self.benchmark,
            self.prompts,
            self.preset,
            self.protocol,
            accept_single=self.accept_single,
        )

    def settings(self, judge: Respondent) -> dict[str, Any]:
        """SETTINGS, as values of JSON."""
        in_words = not is_function(self.preset.name)
        parameters = dict(judge.parameters)
        model = parameters.pop("model")
        return {
            "judge": self.preset.name,
            "model": model,
            "parameters": ", ".join(f"{name} {value}" for name, value in parameters.items()),
            "benchmark": self.benchmark.name,
            "source": self.source,
            "protocol": self.protocol if in_words else "original",
            "prompt_hash": self.prompts.fingerprint if in_words else "none",
            "accept_single": self.accept_single,
        }


def plan_judging(
    run: JudgeRun, samples: Sequence[Sample], judge: Respondent, limits: AskLimits
) -> tuple[AskEstimate, dict[Status, int]]:
    """Return what `judge_pictures` would ask, and how many samples have no picture to ask about.

    Nothing is asked, nothing is written.

    Raises:
      UserError: see `judge_pictures`.
    """
    _earlier(run, judge)
    without: dict[SampleId, tuple[Status, str]] = {}
    asks = _ask_about_all(run, samples, _find(run, samples), without)
    plan = plan_asking(asks, judge, look_into_cache(run.folder), limits, run.questions.parse)
    return plan, dict(collections.Counter(status for status, _ in without.values()))


def judge_pictures(
    run: JudgeRun, samples: Sequence[Sample], judge: Respondent, limits: AskLimits, tally: Tally
) -> list[Judgement]:
    """Ask a judge about a method's pictures, and write what it said.

    Judgements of other samples from earlier runs stay.

    Args:
      run: what and how.
      samples: those to judge; they have the source picture `run.source`.
      judge: whom.
      limits: how often and how fast.
      tally: counts what it costs.

    Returns:
      The judgements of these samples, in their order, by repeat.

    Raises:
      UserError: the judge cannot be asked, judgements there are of another judge or other
        settings, a source picture cannot be read, or a file not be written.
    """
    _earlier(run, judge)
    served = judge.describe()
    found = _find(run, samples)
    without: dict[SampleId, tuple[Status, str]] = {}
    asks = _ask_about_all(run, samples, found, without)
    calls = (run.questions.calls(sample.task) for sample, path in found.items() if path)
    total = sum(calls) * run.repeats
    answers: dict[tuple[SampleId, int], list[AskResult[Scores]]] = collections.defaultdict(list)
    with open_cache(run.folder, ANOTHER) as cache:
        earlier = _earlier(run, judge)  # as they are while no other process writes
        answered = ask_all(asks, judge, cache, limits, run.questions.parse)
        for answer in show_progress(answered, total, tally):
            # without the question, whose pictures are large
            slim = dataclasses.replace(answer, ask=dataclasses.replace(answer.ask, parts=()))
            answers[answer.ask.subject[0], answer.ask.repeat].append(slim)
        judgements = [
            _judgement(sample, repeat, without.get(sample.id), answers[sample.id, repeat])
            for sample in samples
            for repeat in range(run.repeats)
        ]
        chosen = {sample.id for sample in samples}
        others = [one for one in earlier if one.id not in chosen]
        repeats = 1 + max((one.repeat for one in [*others, *judgements]), default=0)
        words = "none" if is_function(run.preset.name) else run.prompts.source
        facts = judge_facts(run.preset, words, cache, served) | run.settings(judge)
        facts["repeats"] = repeats
        write_judgements(run.folder, [*others, *judgements], facts)
    return judgements


def _earlier(run: JudgeRun, judge: Respondent) -> list[Judgement]:
    """Judgements that are there; UserError if they were made otherwise."""
    check_same_judge(run.folder / JUDGE, run.settings(judge), SETTINGS, "judgements")
    return read_judgements(run.folder)[0] if is_file(run.folder / ROWS) else []


def _find(run: JudgeRun, samples: Sequence[Sample]) -> Mapping[SampleId, epath.Path | None]:
    if not run.method_folder.is_dir():
        raise UserError(f"{run.method_folder} does not exist; give --results and --method.")
    ids = [sample.id for sample in samples]
    return find_pictures(run.method_folder, ids, run.benchmark.layout)


def _ask_about_all(
    run: JudgeRun,
    samples: Sequence[Sample],
    found: Mapping[SampleId, epath.Path | None],
    without: dict[SampleId, tuple[Status, str]],
) -> Iterator[Ask]:
    """Make all questions, one after another; samples without a picture go into `without`."""
    questions = run.questions
    for sample in samples:
        path = found[sample.id]
        if path is None:
            without[sample.id] = "missing", ""
            continue
        try:
            edited = check_decodable(read_image_bytes(path), str(path))
        except UserError as e:
            without[sample.id] = "unreadable", str(e)
            continue
        name = f"the source of {'/'.join(filter(None, sample.id))}"
        source = check_decodable(sample.pictures[run.source](), name)
        yield from questions.ask_about(sample, source, edited, run.repeats)


def _judgement(
    sample: Sample,
    repeat: int,
    without: tuple[Status, str] | None,
    answers: Sequence[AskResult[Scores]],
) -> Judgement:
    scores: dict[str, tuple[float, ...]] = {}
    status, reason = without or ("ok", "")
    for answer in sorted(answers, key=lambda answer: answer.id):  # they came in any order
        scores |= answer.value or {}
        if answer.status == "ok":
            continue
        if status == "ok" or _TOLD_FIRST.index(answer.status) < _TOLD_FIRST.index(status):
            status, reason = answer.status, answer.reason
    return Judgement(sample.id, status, scores, sample.intersection, repeat, reason)
