"""What a model gives for a batch: first on the devices, from where any thread may fetch it.

A model is started in one thread and its results are wanted in another one, later; an output is the
promise of them. Whoever holds a row of an output gets its numbers, whatever others did before.
"""

import dataclasses
import itertools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # of numpy or jax


class ModelOutput:
    """The results for one batch, on the devices until they are asked for, then on the host."""

    def __init__(self, values: Array, count: int, lengths: np.ndarray | None = None):
        """Takes what a model returned; does not wait for it.

        Args:
          values: (B, ...), which the devices may still be computing.
          count: of examples; the batch's others only filled it up, and are dropped.
          lengths: (B,) int32, of each example's first axis, which is cut to it; None: all is kept.
        """
        self._values = values
        self._count = count
        self._lengths = lengths
        self._fetched: list[np.ndarray] | None = None
        self._lock = threading.Lock()

    def rows(self) -> "list[OutputRow]":
        """One for each example."""
        return [OutputRow(self, i) for i in range(self._count)]

    def wait(self) -> None:
        """Returns when the devices are done with it."""
        jax.block_until_ready(self._values)

    def fetch(self) -> list[np.ndarray]:
        """The examples' results, bfloat16; the first call moves them to the host."""
        with self._lock:
            if self._fetched is None:
                examples = np.asarray(self._values)[: self._count]
                lengths = itertools.repeat(None) if self._lengths is None else self._lengths
                self._fetched = [
                    example[:length].astype(jnp.bfloat16)
                    for example, length in zip(examples, lengths, strict=False)
                ]
                self._values = None  # frees the devices' memory
            return self._fetched


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """The result for one example, number `index` of an output."""

    output: ModelOutput
    index: int

    def fetch(self) -> np.ndarray:
        """The result, bfloat16, on the host; waits for the devices."""
        return self.output.fetch()[self.index]
