"""A pipeline of small numbers, to see what the engine does with any."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import time
from typing import ClassVar

from step1x_jax.curation.engine.driver import Pipeline, run
from step1x_jax.curation.engine.engine import Inline
from step1x_jax.curation.engine.rows import Rejected, StopError, TransientError
from step1x_jax.curation.engine.source import Source, Unit
from step1x_jax.curation.engine.stage import Stage, WholeStage, each
from step1x_jax.curation.engine.workdir import Workdir

CALLS = "TOY_CALLS"  # environment: a folder where stages note each row that they are given


def note(stage, row):
    """Notes a call, with the process that makes it; short appends are not mixed."""
    if folder := os.environ.get(CALLS):
        with open(pathlib.Path(folder) / stage, "a") as file:
            file.write(f"{row['id']} {os.getpid()}\n")


def calls(folder):
    """Stage -> ids that it was given, with their numbers."""
    return {
        path.name: collections.Counter(line.split()[0] for line in path.read_text().splitlines())
        for path in pathlib.Path(folder).iterdir()
    }


@dataclasses.dataclass
class Numbers(Source):
    """Rows 0 to count - 1, some of them to a part."""

    count: int = 12
    part: int = 3

    writes: ClassVar = {"number": int, "name": str}

    def units(self):
        starts = range(0, self.count, self.part)
        return [Unit((i, min(i + self.part, self.count)), f"{i} {self.count}") for i in starts]

    def read(self, payload, context):
        for number in range(*payload):
            id = f"n{number:04d}"
            note("source", {"id": id})
            yield id, {"number": number, "name": f"number {number}"}


@dataclasses.dataclass
class Square(Stage):
    """Slow on request; fails for some numbers."""

    fails: tuple[int, ...] = ()
    seconds: float = 0.0
    size: int = 0  # bytes of a picture to write

    reads: ClassVar = {"number": int}
    writes: ClassVar = {"square": int, "noise": float, "data": bytes}
    aside: ClassVar = ("seconds",)

    def open(self):
        return each(self._square)

    def _square(self, row, context):
        note("square", row)
        time.sleep(self.seconds)
        number = row["number"]
        if number in self.fails:
            raise ValueError(f"no square of {number}")
        data = (hashlib.sha256(str(number).encode()).digest() * (self.size // 32 + 1))[: self.size]
        return {"square": number**2, "noise": float(context.rng(row).random()), "data": data}


@dataclasses.dataclass
class AtMost(Stage):
    """Lets squares up to a limit pass, and from one on."""

    limit: int = 1000
    least: int = 0

    reads: ClassVar = {"square": int}

    def open(self):
        return each(self._look)

    def _look(self, row):
        note("at_most", row)
        if row["square"] < self.least:
            return Rejected("too_small")
        return {} if row["square"] <= self.limit else Rejected("too_large", str(row["square"]))


@dataclasses.dataclass
class Divisors(Stage):
    """A row for each divisor but 1; odd ones are left out, and so are numbers without any."""

    reads: ClassVar = {"number": int, "square": int}
    writes: ClassVar = {"divisor": int, "facts": dict}
    many: ClassVar = True

    def open(self):
        return each(self._divide)

    def _divide(self, row):
        note("divisors", row)
        for i in range(2, row["number"] + 1):
            if row["number"] % i == 0:
                facts = {"of": row["number"], "square": row["square"]}
                if i % 2:
                    yield Rejected("odd", columns={"divisor": i})
                else:
                    yield {"divisor": i, "facts": facts}


@dataclasses.dataclass
class Once(WholeStage):
    """Each divisor is taken once: from the first row that has it."""

    reads: ClassVar = {"divisor": int, "name": str}

    def decide(self, rows, context):
        note("once", {"id": "all"})
        seen, out = {}, {}
        for row in rows:
            first = seen.setdefault(row["divisor"], row["name"])
            if first != row["name"]:
                out[row["id"]] = Rejected("again", f"as in {first}")
        return out


@dataclasses.dataclass
class Text(Stage):
    """Reads columns of all stages before."""

    reads: ClassVar = {"name": str, "facts": dict, "divisor": int, "data": bytes}
    writes: ClassVar = {"text": str, "words": list[str]}

    def open(self):
        return each(self._write)

    def _write(self, row):
        note("text", row)
        text = f"{row['name']} / {row['divisor']} ({row['facts']['square']}, {len(row['data'])})"
        return {"text": text, "words": text.split()}


@dataclasses.dataclass
class Flaky(Stage):
    """Fails so many times for each row before it goes well."""

    times: int = 1

    reads: ClassVar = {"number": int}
    writes: ClassVar = {"tries": int}

    def open(self):
        tries = collections.Counter()

        def operate(row):
            tries[row["id"]] += 1
            note("flaky", row)
            if tries[row["id"]] <= self.times:
                raise TransientError("busy")
            return {"tries": tries[row["id"]]}

        return each(operate)


@dataclasses.dataclass
class Stops(Stage):
    """Ends at a number."""

    at: int = 7

    reads: ClassVar = {"number": int}
    aside: ClassVar = ("at",)

    def open(self):
        return each(self._look)

    def _look(self, row):
        note("stops", row)
        if row["number"] == self.at:
            raise StopError("nobody answers; look at the server.")
        return {}


def toy_stages(**changes):
    """All the stages; `changes` of the settings of some, by name."""
    stages = {
        "square": Square(),
        "at_most": AtMost(),
        "divisors": Divisors(),
        "once": Once(),
        "text": Text(),
    }
    for name, settings in changes.items():
        stages[name] = dataclasses.replace(stages[name], **settings)
    return stages


def toy(count=12, part=3, stages=None, **settings):
    """The pipeline."""
    return Pipeline(Numbers(count, part), stages or toy_stages(), **settings)


def drive(pipeline, workdir, engine=None, **callbacks):
    """Runs a pipeline to its end; gives the bytes of its manifest."""
    folder = Workdir(workdir)
    with folder.driving():
        run(pipeline, folder, engine or Inline(), **callbacks)
    return (pathlib.Path(workdir) / "manifest.json").read_bytes()
