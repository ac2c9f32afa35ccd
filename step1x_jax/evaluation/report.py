"""Report on methods: tables by judge, language and subset, and agreement of judges.

The tables as text are written by report_tables.py.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.comparison import Comparison, compare, pair_samples
from step1x_jax.evaluation.comparison_tables import Section
from step1x_jax.evaluation.judgement_files import find_judges, judge_folder, read_judgements
from step1x_jax.evaluation.method_pictures import method_folder
from step1x_jax.evaluation.samples import SampleId
from step1x_jax.evaluation.statistics import SampleScores, Summary, score_samples, summarize

Subset = Literal["full", "intersection", "common"]


@dataclasses.dataclass(frozen=True)
class JudgedMethod:
    """A judge's word on a method.

    Attributes:
      samples: what it says of each.
      judge: what is to be known of it, as judge.json has it.
    """

    samples: Sequence[SampleScores]
    judge: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class MethodTable:
    """Methods by one judge.

    Attributes:
      judge: its name.
      language: of the instructions; "": the benchmark has none.
      subset: "common": the samples of which all these methods have pictures.
      methods: name -> table.
    """

    judge: str
    language: str
    subset: Subset
    methods: Mapping[str, Summary]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two judges on the same pictures of a method, first minus second."""

    method: str
    language: str
    first: str
    second: str
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """All tables of a report.

    Attributes:
      benchmark: which.
      tables: of each judge and language the subsets.
      agreements: of each method and language, judges in pairs.
      judges: name -> method -> what is to be known of the judge.
    """

    benchmark: Benchmark
    tables: Sequence[MethodTable]
    agreements: Sequence[Agreement]
    judges: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def incomplete(self) -> bool:
        """Whether a judge failed on a picture, or an average is absent."""
        return any(
            summary.average.judge_failures or not summary.average.means
            for table in self.tables
            for summary in table.methods.values()
        )


def read_judged(
    results: str, methods: Sequence[str], judges: Sequence[str], benchmark: Benchmark
) -> dict[str, dict[str, JudgedMethod]]:
    """Read the judgements of methods: judge -> method -> JudgedMethod.

    Args:
      results: folder of all methods, as the user gave it.
      methods: their names.
      judges: their names; empty: all that have judged one of the methods.
      benchmark: which.

    Raises:
      UserError: a name is given twice, nothing is judged, or a judge that is named has not judged a
        method; or see `read_judgements`.
    """
    for what, names in (("methods", methods), ("judge", judges)):
        if len(set(names)) < len(names):
            raise UserError(f"--{what}={','.join(names)} has a name twice; give each once.")
    folders = {method: method_folder(results, method) for method in methods}
    there = {method: find_judges(folder) for method, folder in folders.items()}
    wanted = list(judges) or sorted(set(itertools.chain(*there.values())))
    found: dict[str, dict[str, JudgedMethod]] = {}
    for judge in wanted:
        for method, folder in folders.items():
            if judge in there[method]:
                judgements, facts = read_judgements(judge_folder(folder, judge))
                judged = JudgedMethod(score_samples(judgements, benchmark), facts)
                found.setdefault(judge, {})[method] = judged
            elif judges:
                raise UserError(
                    f"{folder} has no judgements of {judge}; run evaluate judge first, or give one"
                    f" of {', '.join(there[method]) or '(none)'}."
                )
    for method, names in there.items():
        if not names:
            raise UserError(f"{folders[method]} has no judgements; run evaluate judge first.")
    return found


def make_report(
    judged: Mapping[str, Mapping[str, JudgedMethod]], benchmark: Benchmark, *, common: bool
) -> BenchmarkReport:
    """Make all tables of judgements.

    Args:
      judged: of `read_judged`.
      benchmark: which.
      common: whether, instead of the data set's intersection, the samples are taken of which all
        methods have pictures.

    Raises:
      UserError: the benchmark is judged by pairs.
    """
    tables, agreements = [], []
    for judge, methods in judged.items():
        for language in _languages(methods.values(), benchmark):
            samples = {
                method: [one for one in of.samples if one.id.language == language]
                for method, of in methods.items()
            }
            for subset, chosen in subsets(samples, common=common).items():
                summaries = {name: summarize(ones, benchmark) for name, ones in chosen.items()}
                tables.append(MethodTable(judge, language, subset, summaries))
    for first, second in itertools.combinations(judged, 2):
        for method in judged[first]:
            if method not in judged[second]:
                continue
            pairs = pair_samples(judged[first][method].samples, judged[second][method].samples)
            for language in _languages([judged[first][method]], benchmark):
                ours = [pair for pair in pairs if pair[0].id.language == language]
                agreements.append(
                    Agreement(method, language, first, second, compare(ours, benchmark))
                )
    judges = {
        judge: {method: of.judge for method, of in methods.items()}
        for judge, methods in judged.items()
    }
    return BenchmarkReport(benchmark, tables, agreements, judges)


def _languages(judged: Iterable[JudgedMethod], benchmark: Benchmark) -> list[str]:
    """Return the languages that have samples, in the benchmark's order."""
    there = {one.id.language for of in judged for one in of.samples}
    return [one for one in benchmark.languages if one in there] or sorted(there)


def subsets(
    samples: Mapping[str, Sequence[SampleScores]], *, common: bool
) -> dict[Subset, dict[str, list[SampleScores]]]:
    """The full set, and the intersection if the data set has one, or what methods have in common.

    Args:
      samples: of each method.
      common: which of these two.

    Returns:
      Subset -> method -> samples.
    """
    found: dict[Subset, dict[str, list[SampleScores]]] = {
        "full": {name: list(ones) for name, ones in samples.items()}
    }
    if common:
        there: list[set[SampleId]] = [
            {one.id for one in ones if one.returned} for ones in samples.values()
        ]
        shared = set.intersection(*there)
        found["common"] = {
            name: [one for one in ones if one.id in shared] for name, ones in samples.items()
        }
    elif any(one.intersection is not None for ones in samples.values() for one in ones):
        found["intersection"] = {
            name: [one for one in ones if one.intersection] for name, ones in samples.items()
        }
    return found


def compare_methods(
    first: JudgedMethod, second: JudgedMethod, benchmark: Benchmark
) -> list[Section]:
    """Two methods by one judge, in each language on the full set and on the intersection."""
    pairs = pair_samples(first.samples, second.samples)
    sections = []
    for language in _languages([first, second], benchmark):
        ours = [pair for pair in pairs if pair[0].id.language == language]
        sections.append(Section(language, "full", compare(ours, benchmark)))
        if any(one.intersection is not None for one, _ in ours):
            inside = [pair for pair in ours if pair[0].intersection]
            sections.append(Section(language, "intersection", compare(inside, benchmark)))
    return sections
