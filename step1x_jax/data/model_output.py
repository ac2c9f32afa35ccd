"""The output of a model for a batch: on the devices until a thread fetches it.

A model is dispatched by one thread and its results are used by another thread later; a ModelOutput
is the future of these results. A row of it can be fetched at any time, by any thread.
"""

import dataclasses
import itertools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # numpy or jax array


class ModelOutput:
    """The results of one batch: on the devices until they are fetched, then on the host."""

    def __init__(self, values: Array, count: int, lengths: np.ndarray | None = None):
        """Store what a model returned; does not wait for it.

        Args:
          values: (B, ...), possibly still being computed.
          count: number of examples; the rest of the batch is padding and is dropped.
          lengths: (B,) int32, length to which each example's first axis is cut; None: not cut.
        """
        self._values = values
        self._count = count
        self._lengths = lengths
        self._fetched: list[np.ndarray] | None = None
        self._lock = threading.Lock()

    def rows(self) -> "list[OutputRow]":
        """Return one row per example."""
        return [OutputRow(self, i) for i in range(self._count)]

    def wait(self) -> None:
        """Wait until the devices have computed the results."""
        jax.block_until_ready(self._values)

    def fetch(self) -> list[np.ndarray]:
        """Return the results of the examples in bfloat16; the first call moves them to the host."""
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
    """The result of one example: row `index` of an output."""

    output: ModelOutput
    index: int

    def fetch(self) -> np.ndarray:
        """Return the result in bfloat16 on the host; waits for the devices."""
        return self.output.fetch()[self.index]
