"""A run: stage after stage, of each the parts that are not there yet.

A part is made again when its fingerprint is another: of the stage (its version, settings, models,
prompts), of the seed, and of the columns that it reads. Of a part that is made again, rows that did
not change keep what was made of them. So another threshold of a filter has the filter look again,
and rows that it now lets pass worked on, but nothing made anew.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.engine import Engine, Inline
from step1x_jax.curation.engine.history import History
from step1x_jax.curation.engine.joining import live_rows
from step1x_jax.curation.engine.part_files import PART_BYTES, write_synced
from step1x_jax.curation.engine.rows import ID, Context, Rejected, Row, StopError
from step1x_jax.curation.engine.source import Source, Unit
from step1x_jax.curation.engine.stage import Operator, Stage, WholeStage, check_pipeline, each
from step1x_jax.curation.engine.workdir import MANIFEST, NAME, Part, Workdir, sync_folder
from step1x_jax.curation.engine.worker import Made, PartJob
from step1x_jax.errors import UserError

SOURCE = "source"  # the first stage's name
FEWEST = 50  # rows before a stage is ended for the share of them that failed
VERSION = 1  # of the manifest's form


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What is run.

    Attributes:
      source: where rows come from.
      stages: what is done with them, by name, in order.
      seed: of all random numbers.
      max_error_rate: share of a stage's rows that may fail.
      part_bytes: of a file.
    """

    source: Source
    stages: Mapping[str, Stage]
    seed: int = 0
    max_error_rate: float = 0.05
    part_bytes: int = PART_BYTES

    @property
    def named(self) -> dict[str, Stage]:
        """All stages, the source among them."""
        return {SOURCE: self.source, **self.stages}

    def validate(self) -> None:
        """Raise UserError for names, settings and columns that cannot be."""
        for name, stage in self.named.items():
            if not NAME.fullmatch(name) or (name == SOURCE and stage is not self.source):
                raise UserError(
                    f"a stage is called {name!r}; take letters a to z, digits and underscores, and"
                    f" not {SOURCE}."
                )
            stage.validate()
        check_pipeline(self.source.writes, self.stages)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What there is to do for a stage.

    Attributes:
      name: of the stage.
      stage: itself.
      own: the stage's own fingerprint.
      units: of a source, by key.
      wanted: fingerprint of each part, by key; in order.
      done: the parts that are there.
    """

    name: str
    stage: Stage
    own: str
    units: Mapping[str, Unit]
    wanted: Mapping[str, str]
    done: Mapping[str, Part]


# Called when a part is there: plan, part; of parts that were there before, too.
OnPart = Callable[[StagePlan, Part], None]


def run(
    pipeline: Pipeline,
    workdir: Workdir,
    engine: Engine,
    on_stage: Callable[[StagePlan], None] = lambda plan: None,
    on_part: OnPart = lambda plan, part: None,
) -> dict[str, Any]:
    """Make all that is not there yet.

    Args:
      pipeline: what is wanted.
      workdir: what is there; nobody else works in it (`Workdir.driving`).
      engine: where the work is done.
      on_stage: called before each stage.
      on_part: called for each part that is made.

    Returns:
      The manifest, which is written, too: what the run consists of, the same for the same pipeline
      however often it was interrupted.

    Raises:
      UserError: a stage cannot go on, or too many of its rows failed; what is done stays.
    """
    pipeline.validate()
    history = History(workdir)
    stages = []
    for name, stage in pipeline.named.items():
        plan = _plan(pipeline, workdir, history, name, stage)
        on_stage(plan)
        workdir.make_stage(name)
        parts = dict(plan.done)
        errors = _Errors(name, pipeline.max_error_rate, plan.done.values())
        for made in _make(pipeline, workdir, history, engine, plan):
            part = _commit(workdir, plan, made)
            parts[part.key] = part
            on_part(plan, part)
            errors.add(part)
            errors.check(FEWEST)
        errors.check(1)
        workdir.sweep(name, list(plan.wanted))
        ordered = [parts[key] for key in plan.wanted]
        history.add(name, stage, ordered)
        stages.append(_describe(name, plan.own, ordered))
    manifest = {"version": VERSION, "seed": pipeline.seed, "stages": stages}
    _write_manifest(workdir, manifest)
    return manifest


def plans(pipeline: Pipeline, workdir: Workdir) -> Iterator[StagePlan]:
    """What there is to do, for each stage as far as that is known: up to the first unfinished one.

    Raises:
      UserError: the pipeline is none.
    """
    pipeline.validate()
    history = History(workdir)
    for name, stage in pipeline.named.items():
        plan = _plan(pipeline, workdir, history, name, stage)
        yield plan
        if len(plan.done) < len(plan.wanted):
            return
        history.add(name, stage, [plan.done[key] for key in plan.wanted])


def finished(pipeline: Pipeline, workdir: Workdir) -> History:
    """The stages of a run that is done.

    Raises:
      UserError: it is not, or was made with other settings.
    """
    history = History(workdir)
    for plan in plans(pipeline, workdir):
        if missing := len(plan.wanted) - len(plan.done):
            raise UserError(
                f"{workdir.path}: {missing} of {len(plan.wanted)} parts of the stage {plan.name}"
                " are not there with these settings; let python -m launch.curate run come to its"
                " end."
            )
        history.add(plan.name, plan.stage, [plan.done[key] for key in plan.wanted])
    return history


def _plan(
    pipeline: Pipeline, workdir: Workdir, history: History, name: str, stage: Stage
) -> StagePlan:
    own = digest_of(stage.fingerprint(), str(pipeline.seed), str(pipeline.part_bytes))
    units: dict[str, Unit] = {}
    if isinstance(stage, Source):
        units = {f"{i:06d}": unit for i, unit in enumerate(stage.units())}
        wanted = {key: digest_of(own, unit.stamp) for key, unit in units.items()}
    else:
        inputs = {key: history.fingerprint(key, stage.reads) for key in history.files}
        whole = [digest_of(*inputs.values())] if isinstance(stage, WholeStage) else []
        wanted = {key: digest_of(own, one, *whole) for key, one in inputs.items()}
    there = workdir.parts(name)
    done = {
        key: there[key]
        for key, fingerprint in wanted.items()
        if key in there and there[key].fingerprint == fingerprint
    }
    if _Errors(name, pipeline.max_error_rate, done.values()).too_many:  # so the last run ended
        done = {key: part for key, part in done.items() if not part.failures}
    return StagePlan(name, stage, own, units, wanted, done)


def _make(
    pipeline: Pipeline, workdir: Workdir, history: History, engine: Engine, plan: StagePlan
) -> Iterator[Made]:
    todo = [key for key in plan.wanted if key not in plan.done]
    if not todo:
        return
    there, reads = workdir.parts(plan.name), plan.stage.reads
    whole = isinstance(plan.stage, WholeStage)  # then a row's fate depends on others, too
    folder = workdir.stage(plan.name)

    def job(key: str) -> PartJob:
        before = there.get(key)
        usable = before is not None and before.stage == plan.own and not whole
        return PartJob(
            key=key,
            layers=() if plan.units else history.layers(key, reads),
            payload=plan.units[key].payload if plan.units else None,
            before=tuple(str(folder / f.file) for f in before.files) if before and usable else (),
            folder=str(folder),
            context=_context(pipeline, workdir, plan.name, key),
            limit=pipeline.part_bytes,
        )

    stage = plan.stage
    if isinstance(stage, WholeStage):
        rows = (
            row for key in history.files for row in live_rows(history.layers(key, reads), reads)
        )
        decisions = stage.decide(rows, _context(pipeline, workdir, plan.name, ""))
        stage, engine = _Decided(stage, decisions), Inline()
    yield from engine.run(plan.name, stage, map(job, todo))


def _context(pipeline: Pipeline, workdir: Workdir, name: str, key: str) -> Context:
    return Context(pipeline.seed, name, key, str(workdir.replies(name) / key))


class _Decided(Stage):
    """A stage for all rows that has decided."""

    def __init__(self, stage: WholeStage, decisions: Mapping[str, Rejected]):
        self.reads, self.writes = stage.reads, stage.writes  # type: ignore[misc]
        self._decisions = decisions

    def open(self) -> Operator:
        return each(self._decide)

    def _decide(self, row: Row) -> Mapping[str, Any] | Rejected:
        return self._decisions.get(row[ID], {})


def _commit(workdir: Workdir, plan: StagePlan, made: Made) -> Part:
    part = Part(
        key=made.key,
        stage=plan.own,
        fingerprint=plan.wanted[made.key],
        files=tuple(one.part for one in made.written),
        rejected=made.rejected,
        failed=made.failed,
        examples=made.examples,
        worked=made.worked,
        kept=made.kept,
        calls=made.calls,
        seconds=made.seconds,
    )
    workdir.commit(plan.name, part, made.written)
    return part


class _Errors:
    """Counts the rows of a stage that failed."""

    def __init__(self, name: str, most: float, parts: Iterable[Part] = ()):
        """Begin with parts that are there; `most` is the share of rows that may fail."""
        self._name = name
        self._most = most
        self._worked = 0
        self._kinds: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, str] = {}
        for part in parts:
            self.add(part)

    def add(self, part: Part) -> None:
        """Count a part."""
        self._worked += part.worked
        self._kinds.update(part.failed)
        self._examples = {**part.examples, **self._examples}

    @property
    def too_many(self) -> bool:
        """Whether the share is above the most."""
        return self._kinds.total() > self._most * self._worked

    def check(self, fewest: int) -> None:
        """Raise StopError if too many failed of at least so many rows."""
        if self._worked < fewest or not self.too_many:
            return
        ((kind, _),) = self._kinds.most_common(1)
        raise StopError(
            f"the stage {self._name} failed for {self._kinds.total()} of {self._worked} rows, most"
            f" often with {kind} ({self._examples[kind]}); mend that, or allow more than"
            f" max_error_rate={self._most:g}, and run this again: what is done stays, and rows that"
            " failed are tried again."
        )


def _describe(name: str, own: str, parts: Sequence[Part]) -> dict[str, Any]:
    files = [file for part in parts for file in part.files]
    fields = ("key", "file", "rows", "sha256")
    return {
        "name": name,
        "fingerprint": own,
        "parts": [{field: getattr(file, field) for field in fields} for file in files],
    }


def _write_manifest(workdir: Workdir, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = write_synced(str(workdir.path), MANIFEST, text.encode())
    os.replace(temporary, workdir.path / MANIFEST)
    sync_folder(workdir.path)
