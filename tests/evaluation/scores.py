"""Judgements to compute with: drawn at random, as a judge's."""

import numpy as np

from step1x_jax.evaluation.benchmarks import GEDIT
from step1x_jax.evaluation.judgement_files import judge_folder, write_judgements
from step1x_jax.evaluation.judgements import Judgement
from step1x_jax.evaluation.samples import SampleId
from tests.evaluation.toy import toy_samples

FACTS = {"model": "toy-judge", "prompt_hash": "0123", "protocol": "area512", "date": "2026-11-28"}


def judgement(task, semantics, quality, key="0", language="en", **options):
    """An answered one."""
    numbers = {"semantics": tuple(semantics), "quality": tuple(quality)}
    return Judgement(SampleId(task, language, key), "ok", numbers, **options)


def without(task, status, key="0", language="en", **options):
    """One that is not answered."""
    return Judgement(SampleId(task, language, key), status, {}, **options)


def drawn(seed, per_task=4, repeats=1, samples=None):
    """Of all samples of a toy benchmark, whole numbers from 0 to 10."""
    rng = np.random.default_rng(seed)
    return [
        Judgement(
            sample.id,
            "ok",
            {name: tuple(map(float, rng.integers(0, 11, 2))) for name in ("semantics", "quality")},
            sample.intersection,
            repeat,
        )
        for sample in (toy_samples(per_task) if samples is None else samples)
        for repeat in range(repeats)
    ]


def write(results, method, judge, judgements, **facts):
    """Judgements where reports look for them."""
    write_judgements(judge_folder(results / method, judge), judgements, FACTS | facts)


def every_task(numbers):
    """One English sample of each task of GEdit-Bench with these semantics and quality."""
    return [judgement(task, [a], [b]) for task, (a, b) in zip(GEDIT.tasks, numbers, strict=True)]
