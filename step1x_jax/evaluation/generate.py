"""Edits a benchmark's pictures, with whatever edits: the folder of a method.

Which noise an edit starts from follows from the seed and the sample's identity alone, so that the
same pictures come out in any order, of any selection, and with any number of hosts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.method_pictures import Layout, look_at, picture_path
from step1x_jax.evaluation.samples import Sample, SampleId
from step1x_jax.files import find, is_file, replacing
from step1x_jax.json_files import read_json, shown, write_json
from step1x_jax.sampling.noise import SEED_BITS

RUN, FAILURES = "run.json", "failures"
NOTES = "notes"  # of RUN: what people want to know, and may differ

# From picture, instruction and seed to the edited picture. What goes wrong with one sample is an
# exception.
Edit = Callable[[Image.Image, str, int], Image.Image]


class Counts(NamedTuple):
    """Numbers of samples that were made now, existed already, failed."""

    made: int
    there: int
    failed: int


def sample_seed(seed: int, sample: SampleId) -> int:
    """The seed of a sample's noise, of SEED_BITS bits: of its identity and the run's seed."""
    digest = _digest(f"{seed}", sample)
    return int.from_bytes(digest[: SEED_BITS // 8], "big")


def take_share(samples: Sequence[Sample], host: int, hosts: int) -> list[Sample]:
    """Return one host's samples: each is one host's, each host has some of every task.

    Args:
      samples: all.
      host: from 0 on.
      hosts: how many there are.

    Raises:
      UserError: there is no such host.
    """
    if not 0 <= host < hosts:
        raise UserError(f"--shard={host}/{hosts}: shards are counted from 0 to {hosts - 1}.")
    order = sorted(samples, key=lambda sample: _digest("share", sample.id))
    mine = {sample.id for sample in order[host::hosts]}
    return [sample for sample in samples if sample.id in mine]


def _digest(salt: str, sample: SampleId) -> bytes:
    # As JSON, for joined by any sign two identities could be one text.
    return hashlib.sha256(json.dumps([salt, *sample]).encode()).digest()


def note_run(folder: epath.PathLike, facts: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Notes in a method's folder how its pictures are made, or compares that with what is noted.

    Args:
      folder: of the method.
      facts: all that a picture depends on but its sample; values of JSON.
      notes: what else people want to know: paths, versions, devices.

    Raises:
      UserError: pictures there are made otherwise; names the first field that differs.
    """
    path = epath.Path(folder) / RUN
    wanted = json.loads(json.dumps(dict(facts)))  # tuples are lists in a file
    if not is_file(path):
        write_json(path, {**wanted, NOTES: dict(notes)})
        return
    noted = read_json(path)
    noted.pop(NOTES, None)
    before, now = dict(_fields(noted)), dict(_fields(wanted))
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{path} was made with {name}={shown(before.get(name))}, now it is"
                f" {shown(now.get(name))}; give another --method, or the same settings."
            )


def _fields(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested objects by dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _fields(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def generate(
    edit: Edit,
    samples: Sequence[Sample],
    folder: epath.PathLike,
    *,
    layout: Layout,
    source: str,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    tell: Callable[[SampleId, str], object] = lambda sample, error: None,
) -> Counts:
    """Edit samples whose pictures are not there, one after another.

    A sample that fails is noted in failures.jsonl (of one host of several in
    failures-HOST-of-HOSTS.jsonl), and the next one is made.

    Args:
      edit: makes a picture.
      samples: this host's share of them.
      folder: of the method, with the note of `note_run`.
      layout: the benchmark's.
      source: name of the picture that is edited.
      seed: of the run.
      host: from 0 on.
      hosts: how many share the work.
      tell: is called after each sample, with what went wrong or "".

    Returns:
      How many were made, were there, failed.

    Raises:
      UserError: a picture cannot be written.
    """
    folder = epath.Path(folder)
    failures = _Failures(folder, host, hosts)
    made = there = 0
    for sample in samples:
        path = picture_path(folder, sample.id, layout)
        error = ""
        if is_file(path) and look_at(path).status == "readable":
            there += 1
        else:
            try:
                picture = decode_image(sample.pictures[source](), "/".join(sample.id))
                edited = edit(picture, sample.instruction, sample_seed(seed, sample.id))
            except Exception as e:  # of any kind: too large for a device, a mistake in an editor
                error = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
                failures.add(sample.id, error)
            else:
                with replacing(path) as temporary, temporary.open("wb") as file:
                    edited.convert("RGB").save(file, "PNG")
                made += 1
        tell(sample.id, error)
    return Counts(made, there, len(failures))


class _Failures:
    """The list of samples that failed in this run, a line each; no file if there is none."""

    def __init__(self, folder: epath.Path, host: int, hosts: int):
        """Remove what this host noted before, and hosts of another number."""
        end = f"-of-{hosts}.jsonl" if hosts > 1 else ".jsonl"
        self.path = folder / (FAILURES + (f"-{host}{end}" if hosts > 1 else end))
        for path in find(folder, f"{FAILURES}*.jsonl"):
            fellow = hosts > 1 and path.name.endswith(end)
            if path.name == self.path.name or not fellow:
                path.unlink(missing_ok=True)
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, sample: SampleId, error: str) -> None:
        line = {**sample._asdict(), "error": error}
        self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        with replacing(self.path) as temporary:
            temporary.write_text("".join(self._lines))
