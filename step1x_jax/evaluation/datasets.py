"""Benchmarks from disk: the rows of their tables as samples, checked."""

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from step1x_jax.errors import UserError
from step1x_jax.evaluation import tables
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.names import is_name
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.files import user_path
from step1x_jax.json_files import shown

LANGUAGES = {"zh": "cn"}  # other spellings
SHOWN_PROBLEMS = 3  # of a kind, in a message


def read_samples(
    path: epath.PathLike,
    benchmark: Benchmark,
    source: str | None = None,
    tasks: Sequence[str] = (),
    languages: Sequence[str] = (),
    limit: int | None = None,
) -> list[Sample]:
    """The samples of a benchmark, in the data set's order. No picture is read yet.

    Args:
      path: see `tables.find_tables`.
      benchmark: whose columns the data set has.
      source: the only source picture that is wanted; None: all that the benchmark has.
      tasks: that are wanted; empty: all.
      languages: likewise.
      limit: so many samples at most, spread over languages and tasks.

    Raises:
      UserError: there is no such file or it cannot be read, columns are missing, rows are no
        samples of this benchmark, two have one identity, or none is left.
    """
    tables.forget()
    wanted = [find_source(benchmark, source)] if source else list(benchmark.pictures)
    pictures = {name: benchmark.pictures[name] for name in wanted}
    path = epath.Path(user_path(os.fspath(path)))

    def find_columns(file: epath.Path, names: Sequence[str]) -> tables.Columns:
        fields, missing = _find(names, benchmark.columns)
        columns, others = _find(names, pictures)
        if missing or others:
            raise UserError(
                f"{file} has the columns {', '.join(names)}, and for {benchmark.name}"
                f" {', '.join(missing + others)} is missing; give that data set, or rename columns."
            )
        return tables.Columns(fields, columns)

    samples, bad_rows = [], []
    for file in tables.find_tables(path):
        for row, values, columns in tables.read_rows(file, find_columns):
            try:
                samples.append(_to_sample(file, values, columns))
            except UserError as e:
                bad_rows.append(f"{row}: {e}")
    _check(path, benchmark, samples, bad_rows)
    for what, chosen, of in (("tasks", tasks, _task), ("languages", languages, _language)):
        samples = _select(samples, what, chosen, of, path)
    return samples if limit is None else _spread(samples, limit)


def find_source(benchmark: Benchmark, source: str | None) -> str:
    """The name of a benchmark's source picture; None: of its default one.

    Raises:
      UserError: it has none of that name.
    """
    if source and source not in benchmark.pictures:
        raise UserError(
            f"the source picture {shown(source)} is none of {benchmark.name}; give one of"
            f" {', '.join(benchmark.pictures)}."
        )
    return source or next(iter(benchmark.pictures))


def _find(
    names: Sequence[str], wanted: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, str], list[str]]:
    """Return for each field the first of its columns that exists, and the fields without any."""
    found = {field: [name for name in known if name in names] for field, known in wanted.items()}
    missing = [" or ".join(wanted[field]) for field, there in found.items() if not there]
    return {field: there[0] for field, there in found.items() if there}, missing


def _to_sample(file: epath.Path, values: Any, columns: tables.Columns) -> Sample:
    """A row as a sample; UserError with the reason alone: it is none."""
    if isinstance(values, UserError):
        raise values
    texts = {}
    for field, column in columns.fields.items():
        value = values.get(column)
        if field == "key" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if field == "intersection":
            if not isinstance(value, bool):
                raise UserError(f"{column} is {shown(value)}, not true or false")
            continue
        if not (isinstance(value, str) and value.strip()):
            raise UserError(f"{column} is {shown(value)}, not a text")
        if field in ("task", "key") and not is_name(value):
            raise UserError(f"{column} is {shown(value)}, which cannot be the name of a file")
        texts[field] = value
    pictures = {}
    for name, column in columns.pictures.items():
        try:
            pictures[name] = tables.picture_reader(file, values.get(column))
        except UserError as e:
            raise UserError(f"{column}: {e}") from e
    used = {*columns.fields.values(), *columns.pictures.values()}
    flag = columns.fields.get("intersection")
    return Sample(
        id=SampleId(texts["task"], _spelling(texts.get("language", "")), texts["key"]),
        instruction=texts["instruction"],
        pictures=pictures,
        intersection=None if flag is None else values[flag],
        extra={n: v for n, v in values.items() if n not in used and isinstance(v, str)},
    )


def _check(
    path: epath.Path, benchmark: Benchmark, samples: Sequence[Sample], bad_rows: Sequence[str]
) -> None:
    """Raise UserError, which lists what was found, if rows are no samples of a benchmark."""
    found = []
    for what, known, of in (
        ("tasks", benchmark.tasks, _task),
        ("languages", benchmark.languages, _language),
    ):
        counts = collections.Counter(of(one) for one in samples if known and of(one) not in known)
        if counts:
            listed = ", ".join(f"{name} ({n} rows)" for name, n in counts.most_common(10))
            found.append(f"the {what} {listed}, which are not among {', '.join(known)}")
    if benchmark.layout == "flat":  # one file for all samples of a key
        names = collections.Counter(one.id.key for one in samples)
    else:
        names = collections.Counter("/".join(one.id) for one in samples)
    twice = [name for name, n in names.items() if n > 1]
    for what, problems in (("more than one row of", twice), ("rows that are none:", bad_rows)):
        if problems:
            rest = len(problems) - SHOWN_PROBLEMS
            more = f" and {rest} more" if rest > 0 else ""
            found.append(f"{what} {'; '.join(problems[:SHOWN_PROBLEMS])}{more}")
    if found:
        raise UserError(
            f"{path} is no data set of {benchmark.name}, for it has {'; '.join(found)}; correct it,"
            " or give the right --dataset and --benchmark."
        )
    if not samples:
        raise UserError(f"{path} has no rows; give a data set with samples.")


def _task(sample: Sample) -> str:
    return sample.id.task


def _language(sample: Sample) -> str:
    return sample.id.language


def _spelling(language: str) -> str:
    return LANGUAGES.get(language, language)


def _select(
    samples: list[Sample],
    what: str,
    wanted: Sequence[str],
    of: Callable[[Sample], str],
    path: epath.Path,
) -> list[Sample]:
    """Return the samples of the wanted tasks, or languages; all if none is named."""
    if not wanted:
        return samples
    there = list(dict.fromkeys(map(of, samples)))
    names = {_spelling(name) for name in wanted}
    if unknown := sorted(names.difference(there) | names & {""}):
        known = ", ".join(filter(None, there)) or "none"
        raise UserError(
            f"--{what}={','.join(wanted)}: {path} has no {', '.join(unknown)}; it has {known}."
        )
    return [sample for sample in samples if of(sample) in names]


def _spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """So many of them, in their order: the first of each language and task, then the second, ..."""
    if limit < 1:
        raise UserError(f"--limit={limit}: give a number of samples from 1 on.")
    languages = list(dict.fromkeys(map(_language, samples)))
    places: collections.Counter[tuple[str, str]] = collections.Counter()
    order = []
    for number, sample in enumerate(samples):
        group = sample.id.language, sample.id.task
        order.append((places[group], languages.index(sample.id.language), number))
        places[group] += 1
    chosen = {number for *_, number in sorted(order)[:limit]}
    return [sample for number, sample in enumerate(samples) if number in chosen]
