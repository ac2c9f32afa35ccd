"""The categories are those of the benchmark."""

from step1x_jax.curation.categories import Category
from step1x_jax.evaluation.benchmarks import GEDIT


def test_spelled_as_in_the_benchmark():
    assert [str(category) for category in Category] == list(GEDIT.tasks)
