"""Where a run's time goes, and how much of what its devices could do it uses."""

import contextlib
import time
from collections.abc import Hashable, Iterator

import jax

from step1x_jax.parallel.devices import GIB


class Clock:
    """Counts a process's seconds: in steps, in reading data, and since it began.

    The first step of each size counts as a beginning: it compiles.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._productive = 0.0
        self._steps = 0  # since the last row
        self._stepping = self._reading = self._flops = 0.0
        self._compiled: set[Hashable] = set()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around what waits for data."""
        start = time.monotonic()
        yield
        self._reading += time.monotonic() - start

    def is_new(self, size: Hashable) -> bool:
        """Whether no step of this size was taken: the first one compiles."""
        return size not in self._compiled

    @contextlib.contextmanager
    def step(self, size: Hashable, flops: float) -> Iterator[None]:
        """Around a step, from its start until the devices are done; reading in between is in it.

        Args:
          size: of its batch.
          flops: of the step, over all devices.
        """
        start, reading = time.monotonic(), self._reading
        yield
        if size not in self._compiled:
            self._compiled.add(size)
            self._reading = reading
            return
        seconds = time.monotonic() - start
        self._productive += seconds
        self._stepping += seconds
        self._flops += flops
        self._steps += 1

    def row(self, peak: float | None) -> dict[str, float]:
        """What happened since the last row; nothing right after the first step.

        Args:
          peak: operations a second of one device; None where it is not known.

        Returns:
          seconds_per_step; data_seconds, the part of it that went into waiting for data (near the
          whole: the loader is too slow); mfu, model FLOPs over what the devices could have done;
          memory_gib, the most that a device of this process held so far; goodput, the part of the
          process's life that went into steps, without starting, compiling, evaluating and saving.
        """
        if not self._steps:
            return {}
        seconds = self._stepping / self._steps
        row = {"seconds_per_step": seconds, "data_seconds": self._reading / self._steps}
        if peak is not None:
            row["mfu"] = self._flops / (self._stepping * peak * jax.device_count())
        stats = [device.memory_stats() for device in jax.local_devices()]
        peaks = [x["peak_bytes_in_use"] for x in stats if x and "peak_bytes_in_use" in x]
        if peaks:
            row["memory_gib"] = max(peaks) / GIB
        row["goodput"] = self._productive / (time.monotonic() - self._began)
        self._steps, self._stepping, self._reading, self._flops = 0, 0.0, 0.0, 0.0
        return row
