"""Step time, data time, MFU, memory and goodput of a run."""

import contextlib
import time
from collections.abc import Hashable, Iterator

import jax

from step1x_jax.parallel.devices import GIB


class Clock:
    """Measure the seconds a process spends in steps, on waiting for data, and in total.

    The first step of each batch shape is not counted as a step, because it compiles.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._productive = 0.0
        self._steps = 0  # since the last row
        self._stepping = self._reading = self._flops = 0.0
        self._compiled: set[Hashable] = set()

    @contextlib.contextmanager
    def measure_data(self) -> Iterator[None]:
        """Context that measures waiting for data."""
        start = time.monotonic()
        yield
        self._reading += time.monotonic() - start

    def is_new(self, size: Hashable) -> bool:
        """Whether no step with this batch shape was measured yet; the first one compiles."""
        return size not in self._compiled

    @contextlib.contextmanager
    def measure_step(self, size: Hashable, flops: float) -> Iterator[None]:
        """Context that measures a step until the devices are done, including `measure_data`.

        Args:
          size: the shape of the batch.
          flops: operations of the step, over all devices.
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

    def take_row(self, peak: float | None) -> dict[str, float]:
        """Return the metrics since the last call and start over.

        Args:
          peak: peak FLOP/s of one device; None if unknown.

        Returns:
          Empty if no step was measured, as after the first step. Otherwise:
          seconds_per_step;
          data_seconds, the part of it spent waiting for data (if it is close to seconds_per_step,
          the data loader is too slow);
          mfu, model FLOPs utilization: model FLOPs over the peak of all devices (if known);
          memory_gib, the peak memory of the fullest device of this process (if known);
          goodput, the fraction of the process's lifetime spent in steps rather than in starting,
          compiling, evaluating and saving.
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
