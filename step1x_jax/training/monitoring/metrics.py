"""What a run tells while it trains: metrics.jsonl, TensorBoard, console and progress bar."""

import contextlib
import json
import math
import re
import sys
import time
from typing import Any

import jax
from etils import epath
from tqdm import tqdm

from step1x_jax.errors import UserError
from step1x_jax.files import Growing, reason, replacing
from step1x_jax.json_files import build, parse_json

Row = dict[
    str, Any
]  # numbers, None where they are not finite: loss, grad_norm, learning_rate, param_norm
FILE = "metrics.jsonl"


class Metrics:
    """Writes one row per logged step, on process 0; on the others it does nothing.

    WORKDIR/metrics.jsonl holds one JSON object per row: step (steps done), loss, grad_norm,
    learning_rate, param_norm, steps_per_second. WORKDIR/tensorboard/ holds the same. On an object
    store, which cannot append, both are put anew as a whole, now and then and in `flush`.

    Args:
      workdir: the run's folder.
      first_step: steps done when this process starts. Rows after it are dropped: they were written
        after the checkpoint that it starts from, and will be written again.
      steps: where the run ends, for the progress bar.

    Raises:
      UserError: the folder cannot be written to.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int, steps: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._place = epath.Path(workdir) / FILE  # as the user knows it
        self._files = Growing(workdir)
        self._file = self._files.local / FILE
        rows = [row for row in read_metrics(workdir) if row["step"] <= first_step]
        with replacing(self._file) as temporary:
            temporary.write_text("".join(map(_line, rows)))
        try:
            self._tensorboard = _TensorBoard(self._files.local / "tensorboard", first_step)
        except OSError as e:
            raise self._not_written(e) from e
        self.flush()
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),  # in a log file, the lines of `write` are enough
        )
        self._steps = steps
        self._timed: tuple[int, float] | None = None  # a step and when it was done

    def advance(self, step: int) -> None:
        """Moves the progress bar on to `step` steps done."""
        if self._active:
            self._bar.update(step - self._bar.n)
            if self._timed is None:  # the speed counts from here: the first step compiles
                self._timed = step, time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._active:
            tqdm.write(text)
            sys.stdout.flush()

    def write(self, step: int, values: Row) -> None:
        """Writes the row of a step.

        Args:
          step: steps done.
          values: of the last of them.

        Raises:
          UserError: the disk is full.
        """
        if not self._active:
            return
        row: Row = {"step": step, "loss": values["loss"], **values}
        left = ""
        now = time.monotonic()
        if self._timed is not None and step > self._timed[0]:
            speed = (step - self._timed[0]) / (now - self._timed[1])
            row["steps_per_second"] = round(speed, 4)
            left = f"  {speed:.3g} steps/s  {_clock((self._steps - step) / speed)} left"
        self._timed = step, now
        try:
            with self._file.open("a") as f:
                f.write(_line(row))
            self._tensorboard.write(row)
            self._files.put()
        except OSError as e:
            raise self._not_written(e) from e
        self.say(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.4f}"
            f"  gradient norm {values['grad_norm']:.3g}  learning rate"
            f" {values['learning_rate']:.2e}{left}"
        )

    def flush(self) -> None:
        """Brings all rows to their place: before a checkpoint, from which a run may go on.

        Raises:
          UserError: they could not be put.
        """
        if self._active:
            try:
                self._files.put(now=True)
            except OSError as e:
                raise self._not_written(e) from e

    def close(self) -> None:
        """Finishes the bar and the files."""
        if self._active:
            self._bar.close()
            with contextlib.suppress(OSError):  # a full disk: `write` has said it
                self._tensorboard.close()
            with contextlib.suppress(OSError):
                self._files.close()

    def _not_written(self, e: OSError) -> UserError:
        return UserError(
            f"{self._place} could not be written ({reason(e)}); free space, or make it and"
            " tensorboard/ beside it writable, and run the command again: it goes on from the last"
            " checkpoint."
        )


def read_metrics(workdir: epath.PathLike) -> list[Row]:
    """The rows of a run's metrics.jsonl. What is no row, such as a line cut short, is left out.

    Raises:
      UserError: the file cannot be read.
    """
    path = epath.Path(workdir) / FILE
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as e:
        raise UserError(f"{path} cannot be read ({reason(e)}); check or remove it.") from e
    rows = []
    for line in re.sub(rb": (NaN|-?Infinity)\b", b": null", data).splitlines():
        with contextlib.suppress(UserError):
            row = build(dict[str, int | float | None], parse_json(line, FILE), FILE)
            if isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def _line(row: Row) -> str:
    """A row as JSON, which has no number that is not finite."""
    numbers = {k: v if v is not None and math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(numbers) + "\n"


def _clock(seconds: float) -> str:
    """4000 -> "1:06:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class _TensorBoard:
    """Scalars in TensorBoard's event files.

    Written in the caller's thread: SummaryWriter's own would swallow a full disk's error, then
    block.
    """

    def __init__(self, folder: epath.Path, first_step: int):
        # imported here: a second that nothing else should pay for
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{first_step}")
        # TensorBoard hides what an earlier process wrote from this step on
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(step=first_step + 1, session_log=start))

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                event = self._event(
                    wall_time=time.time(), step=row["step"], summary=self._scalar(name, value)
                )
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
