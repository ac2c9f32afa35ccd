"""Metrics of a run: metrics.jsonl, TensorBoard, console and progress bar."""

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

# Metric names (loss, grad_norm, learning_rate, param_norm, ...) to numbers; not finite: None.
Row = dict[str, Any]
FILE = "metrics.jsonl"


class MetricsWriter:
    """Write one row per logged step on process 0; other processes do nothing.

    WORKDIR/metrics.jsonl holds one JSON object per row: step (completed steps), loss, grad_norm,
    learning_rate, param_norm, steps_per_second and others. WORKDIR/tensorboard/ holds the same
    values. Object stores cannot append, so there both are uploaded as whole files, from time to
    time and in `flush`.

    Args:
      workdir: the run's folder.
      first_step: completed steps when this process starts. Later rows are dropped: they were
        written after the checkpoint from which it resumes, and will be written again.
      steps: last step of the run, for the progress bar.

    Raises:
      UserError: the folder cannot be written to.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int, steps: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._path = epath.Path(workdir) / FILE  # the user's name for it; _file may be a local copy
        self._files = Growing(workdir)
        self._file = self._files.local / FILE
        rows = [row for row in read_metrics(workdir) if row["step"] <= first_step]
        with replacing(self._file) as temporary:
            temporary.write_text("".join(map(_format_line, rows)))
        try:
            self._tensorboard = _TensorBoard(self._files.local / "tensorboard", first_step)
        except OSError as e:
            raise self._write_error(e) from e
        self.flush()
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),  # in log files the lines of `write` suffice
        )
        self._steps = steps
        # step and time of the last measurement
        self._timed: tuple[int, float] | None = None

    def advance(self, step: int) -> None:
        """Advance the progress bar to `step` completed steps."""
        if self._active:
            self._bar.update(step - self._bar.n)
            if self._timed is None:  # speed is measured from here: the first step compiles
                self._timed = step, time.monotonic()

    def print_line(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            tqdm.write(text)
            sys.stdout.flush()

    def write(self, step: int, values: Row) -> None:
        """Write the row of a step.

        Args:
          step: completed steps.
          values: metrics of the last of them, with at least loss, grad_norm and learning_rate.

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
            left = f"  {speed:.3g} steps/s  {_format_duration((self._steps - step) / speed)} left"
        self._timed = step, now
        try:
            with self._file.open("a") as f:
                f.write(_format_line(row))
            self._tensorboard.write(row)
            self._files.put()
        except OSError as e:
            raise self._write_error(e) from e
        self.print_line(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {values['loss']:.4f}"
            f"  gradient norm {values['grad_norm']:.3g}  learning rate"
            f" {values['learning_rate']:.2e}{left}"
        )

    def flush(self) -> None:
        """Upload all rows. Called before a checkpoint, from which the run may be resumed.

        Raises:
          UserError: the upload failed.
        """
        if self._active:
            try:
                self._files.put(now=True)
            except OSError as e:
                raise self._write_error(e) from e

    def close(self) -> None:
        """Close the progress bar and the files."""
        if self._active:
            self._bar.close()
            with contextlib.suppress(OSError):  # a full disk: reported by `write`
                self._tensorboard.close()
            with contextlib.suppress(OSError):
                self._files.close()

    def _write_error(self, e: OSError) -> UserError:
        return UserError(
            f"{self._path} could not be written ({reason(e)}); free space, or make it and the"
            " tensorboard/ folder beside it writable, and run the command again: it resumes from"
            " the last checkpoint."
        )


def read_metrics(workdir: epath.PathLike) -> list[Row]:
    """Read the rows of a run's metrics.jsonl; invalid lines, e.g. truncated ones, are skipped.

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


def _format_line(row: Row) -> str:
    """Format a row as a line of JSON; numbers that are not finite become null."""
    numbers = {k: v if v is not None and math.isfinite(v) else None for k, v in row.items()}
    return json.dumps(numbers) + "\n"


def _format_duration(seconds: float) -> str:
    """4000 -> "1:06:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class _TensorBoard:
    """Write scalars to TensorBoard's event files.

    This happens in the caller's thread: the thread of SummaryWriter would swallow the error of a
    full disk and then block.
    """

    def __init__(self, folder: epath.Path, first_step: int):
        # imported here because it takes a second
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{first_step}")
        # makes TensorBoard hide what an earlier process wrote from this step on
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
