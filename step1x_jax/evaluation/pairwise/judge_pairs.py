"""Judging pairs of methods' pictures: from samples and files to verdicts.jsonl and judge.json.

Beside them is replies.jsonl, by which a run that was killed goes on where it was, and a method
that is added later pays for its own pairs alone.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.asking.ask import AskEstimate, AskLimits
from step1x_jax.asking.cache import look_into_cache, open_cache
from step1x_jax.asking.exchange import Ask, Respondent
from step1x_jax.conditioning.images import read_image_bytes
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark, JudgeQuestion
from step1x_jax.evaluation.judging.facts import ANOTHER, check_same_judge, judge_facts
from step1x_jax.evaluation.judging.presets import JudgePreset
from step1x_jax.evaluation.judging.tally import Tally
from step1x_jax.evaluation.method_pictures import find_pictures, method_folder
from step1x_jax.evaluation.pairwise.asking import collect_verdicts, plan_verdicts
from step1x_jax.evaluation.pairwise.gallery import find_listed, update_gallery
from step1x_jax.evaluation.pairwise.pair_files import (
    JUDGE,
    PICTURES,
    ROWS,
    pair_folder,
    read_pairs,
    write_pairs,
)
from step1x_jax.evaluation.pairwise.questions import (
    PROTOCOL,
    QUESTIONS,
    Orders,
    Shown,
    ask_about_pair,
    check_can_compare,
    for_pairs,
    prompts_for,
    show,
)
from step1x_jax.evaluation.pairwise.verdicts import PairVerdict
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.files import is_file

# What all verdicts in one folder have in common, of judge.json.
SETTINGS = ("judge", "parameters", "benchmark", "source", "protocol", "prompt_hash")

Without = dict[str, dict[str, int]]  # method -> "missing" and "unreadable" -> how many pictures
Found = Mapping[str, Mapping[SampleId, epath.Path | None]]  # method -> sample -> file


@dataclasses.dataclass(frozen=True)
class PairRun:
    """A comparison of methods, and how it is made; `plan_run` makes it.

    Attributes:
      benchmark: whose samples.
      results: folder of all methods, a user's path.
      folder: where verdicts go.
      preset: the judge's, for pairs.
      source: the column of the source picture that the judge sees.
      pairs: of methods.
      questions: about each pair; their names are the dimensions.
      orders: in which a pair is shown.
    """

    benchmark: Benchmark
    results: str
    folder: epath.Path
    preset: JudgePreset
    source: str
    pairs: tuple[tuple[str, str], ...]
    questions: tuple[JudgeQuestion, ...]
    orders: Orders

    @property
    def methods(self) -> tuple[str, ...]:
        """Return all methods, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.pairs)))

    @property
    def is_gallery(self) -> bool:
        """Whether the methods' folders make a gallery, which may have a list."""
        return self.benchmark.layout == "flat"

    def settings(self, judge: Respondent) -> dict[str, Any]:
        """SETTINGS, as values of JSON."""
        return {
            "judge": self.preset.name,
            "parameters": dict(judge.parameters),
            "benchmark": self.benchmark.name,
            "source": self.source,
            "protocol": PROTOCOL,
            # Of all questions, those too that are not asked now.
            "prompt_hash": prompts_for(QUESTIONS).fingerprint,
        }


def plan_run(
    benchmark: Benchmark,
    results: str,
    judge_name: str,
    preset: JudgePreset,
    method: str,
    against: Sequence[str],
    *,
    source: str,
    dimensions: Sequence[str] = (),
    orders: Orders = "both",
) -> PairRun:
    """Plan to judge a method against others.

    Args:
      benchmark: whose samples.
      results: folder of all methods, as the user gave it.
      judge_name: under which verdicts are kept.
      preset: the judge's.
      method: which is compared with each of the others.
      against: the others.
      source: the column of the source picture that the judge sees.
      dimensions: names of the questions that are asked; empty: all.
      orders: in which a pair is shown.

    Raises:
      UserError: a name cannot be one, the method would be judged against itself, there is no such
        dimension, or the judge cannot compare.
    """
    check_can_compare(preset)
    for name in (method, *against):
        method_folder(results, name)  # refuses what is no name
    others = list(dict.fromkeys(against))
    if method in others:
        raise UserError(f"--against names {method}, which is the method itself; leave it out.")
    known = {question.name: question for question in QUESTIONS}
    unknown = [name for name in dimensions if name not in known]
    if unknown:
        raise UserError(f"--dimensions={unknown[0]} is none of {', '.join(known)}.")
    return PairRun(
        benchmark=benchmark,
        results=results,
        folder=pair_folder(results, judge_name),
        preset=for_pairs(preset),
        source=source,
        pairs=tuple((method, other) for other in others),
        questions=tuple(q for name, q in known.items() if not dimensions or name in dimensions),
        orders=orders,
    )


def plan_pairs(
    run: PairRun, samples: Sequence[Sample], judge: Respondent, limits: AskLimits
) -> tuple[AskEstimate, Without]:
    """Return what `judge_pairs` would ask, and which pictures it would not have.

    Nothing is asked, nothing is written.

    Raises:
      UserError: see `judge_pairs`.
    """
    _earlier(run, judge)
    asking = _Asking(run, samples)
    plan = plan_verdicts(asking.every(), judge, look_into_cache(run.folder), limits)
    return plan, asking.without


def judge_pairs(
    run: PairRun, samples: Sequence[Sample], judge: Respondent, limits: AskLimits, tally: Tally
) -> tuple[list[PairVerdict], Without]:
    """Ask a judge about pairs of pictures, and write what it said.

    Verdicts on other methods, dimensions and samples from earlier runs stay. A
    gallery's list gets the methods' pictures, for other programs.

    Args:
      run: what and how.
      samples: those to judge; they have the source picture `run.source`.
      judge: whom; of `run.preset`.
      limits: how often and how fast.
      tally: counts what it costs.

    Returns:
      The verdicts on these pairs, and which pictures there are not.

    Raises:
      UserError: the judge cannot be asked, verdicts there are of another judge or other settings,
        no pair has both pictures, a source picture cannot be read, or a file not be written.
    """
    _earlier(run, judge)
    served = judge.describe()
    asking = _Asking(run, samples)
    with open_cache(run.folder, ANOTHER) as cache:
        earlier, facts = _earlier(run, judge)  # as they are while no other process writes
        verdicts = collect_verdicts(asking.every(), judge, cache, limits, tally, asking.total)
        judged = {frozenset(pair) for pair in run.pairs}
        names = {question.name for question in run.questions}
        ids = {sample.id for sample in samples}
        others = [
            one
            for one in earlier
            if frozenset((one.first, one.second)) not in judged
            or one.dimension not in names
            or SampleId(one.task, one.language, one.key) not in ids
        ]
        facts = (
            run.settings(judge)
            | judge_facts(run.preset, prompts_for(run.questions).source, cache, served)
            | {PICTURES: {**facts.get(PICTURES, {}), **asking.without}}
        )
        write_pairs(run.folder, [*others, *verdicts], facts)
    if run.is_gallery:
        for method, found in asking.found.items():
            pictures = {sample.key: path for sample, path in found.items() if path is not None}
            update_gallery(method_folder(run.results, method).parent, method, pictures)
    return verdicts, asking.without


def _earlier(run: PairRun, judge: Respondent) -> tuple[list[PairVerdict], dict[str, Any]]:
    """Verdicts and facts that are there; UserError if they were made otherwise."""
    there = check_same_judge(run.folder / JUDGE, run.settings(judge), SETTINGS, "verdicts")
    return read_pairs(run.folder) if there and is_file(run.folder / ROWS) else ([], there)


class _Asking:
    """Makes all questions of a run, one after another.

    Attributes:
      found: the methods' pictures.
      total: how many questions there are at most.
      without: method -> pictures that are missing, and unreadable, of the samples gone through.
    """

    def __init__(self, run: PairRun, samples: Sequence[Sample]):
        """Look for files, and open none."""
        self._run, self._samples = run, samples
        self.found = _find(run, [sample.id for sample in samples])
        complete = sum(
            self.found[one][sample.id] is not None and self.found[other][sample.id] is not None
            for sample in samples
            for one, other in run.pairs
        )
        if not complete:
            names = ", ".join(" and ".join(pair) for pair in run.pairs)
            raise UserError(
                f"no sample has pictures of both {names} in {run.results}; look at the names of"
                " the methods and of their files."
            )
        self.total = complete * len(run.questions) * (2 if run.orders == "both" else 1)
        self.without: Without = {method: {"missing": 0, "unreadable": 0} for method in run.methods}

    def every(self) -> Iterator[tuple[PairVerdict, Ask | None]]:
        """Yield all verdicts that are open, or known unasked, with their questions."""
        prompts = prompts_for(self._run.questions)
        for sample in self._samples:
            pictures = self._pictures_of(sample.id)
            pairs = [pair for pair in self._run.pairs if all(name in pictures for name in pair)]
            if not pairs:
                continue
            name = f"the source of {'/'.join(filter(None, sample.id))}"
            source = show(sample.pictures[self._run.source](), name, self._run.preset)
            for pair in pairs:
                yield from ask_about_pair(
                    sample.id,
                    sample.instruction,
                    source,
                    {method: pictures[method] for method in pair},
                    self._run.questions,
                    prompts,
                    self._run.orders,
                )

    def _pictures_of(self, sample: SampleId) -> dict[str, Shown]:
        """Return each method's picture if it can be read; count the others."""
        pictures = {}
        for method in self._run.methods:
            path = self.found[method][sample]
            if path is None:
                self.without[method]["missing"] += 1
                continue
            try:
                pictures[method] = show(read_image_bytes(path), str(path), self._run.preset)
            except UserError:
                self.without[method]["unreadable"] += 1
        return pictures


def _find(run: PairRun, ids: Sequence[SampleId]) -> Found:
    """The files of all methods: what a gallery's list names comes before what is in folders."""
    found: dict[str, dict[SampleId, epath.Path | None]] = {}
    for method in run.methods:
        folder = method_folder(run.results, method)
        found[method] = find_pictures(folder, ids, run.benchmark.layout)
        if run.is_gallery:
            found[method] |= find_listed(folder.parent, method, ids)
    return found
