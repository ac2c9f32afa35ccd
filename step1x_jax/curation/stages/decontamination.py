"""Edits that show a benchmark's picture are left out, as a stage."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from etils import epath

from step1x_jax.conditioning.images import decode_image
from step1x_jax.curation.engine.columns import digest_of
from step1x_jax.curation.engine.stage import Operator, Stage, each
from step1x_jax.curation.filters.decontamination import MOST_BITS, BenchmarkFilter, hash_pictures
from step1x_jax.curation.stages.filters import PAIR, rejecting
from step1x_jax.data.paths import walk
from step1x_jax.errors import require
from step1x_jax.evaluation.benchmarks import BENCHMARKS
from step1x_jax.evaluation.datasets import read_samples
from step1x_jax.files import file_size, user_path


@dataclasses.dataclass
class Decontamination(Stage):
    """See `BenchmarkFilter`.

    Attributes:
      dataset: the benchmark's data set, as launch.evaluate reads it; "": there is none to compare
        with.
      benchmark: its name.
      most_bits: of a perceptual hash, in which two pictures may differ and still be the same.
    """

    dataset: str = ""
    benchmark: str = "gedit"
    most_bits: int = MOST_BITS

    reads: ClassVar = PAIR
    aside: ClassVar = ("dataset",)  # its files count

    def validate(self) -> None:
        """See `Stage`."""
        known = ", ".join(BENCHMARKS)
        require(self.benchmark in BENCHMARKS, "benchmark", self.benchmark, f"give one of {known}")

    def identity(self) -> Mapping[str, Any]:
        """See `Stage`."""
        if not self.dataset:
            return {}
        root = epath.Path(user_path(self.dataset))
        files = (
            [root] if root.is_file() else [f / name for f, names, _ in walk(root) for name in names]
        )
        return {"files": digest_of(*([file.name, file_size(file)] for file in sorted(files)))}

    def open(self) -> Operator:
        """See `Stage`."""
        if not self.dataset:
            return each(lambda row: {})
        samples = read_samples(self.dataset, BENCHMARKS[self.benchmark])
        files = {read() for sample in samples for read in sample.pictures.values()}
        pixels = [np.asarray(decode_image(data, self.dataset)) for data in sorted(files)]
        return rejecting(BenchmarkFilter(hash_pictures(pixels), self.most_bits))
