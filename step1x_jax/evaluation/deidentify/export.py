"""Export of reviewed samples as a benchmark that may be given away, with an audit log.

Nothing of a private file is copied: pictures are written anew from their pixels, with what was
redacted burnt in, keys are replaced, instructions are those that a person has read.
"""

import dataclasses
import datetime
import hashlib
import hmac
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath
from PIL import Image

from step1x_jax.conditioning.images import decode_image
from step1x_jax.errors import UserError
from step1x_jax.evaluation.benchmarks import Benchmark
from step1x_jax.evaluation.dataset_files import Row, Writer
from step1x_jax.evaluation.deidentify.audit_log import append_entries, verify_log
from step1x_jax.evaluation.deidentify.decisions import Decision
from step1x_jax.evaluation.deidentify.findings import Findings, PictureFindings, RequestedEdit
from step1x_jax.evaluation.deidentify.redact import redact_picture
from step1x_jax.evaluation.deidentify.review import open_public, read_scanned
from step1x_jax.evaluation.places import check_new, is_inside
from step1x_jax.evaluation.samples import Sample
from step1x_jax.files import making_folder
from step1x_jax.json_files import write_json

SUMMARY = "deidentified.json"
SIDE, MULTIPLE = 512, 32  # of input_image: its area is about SIDE^2, its sides are multiples
RAW, RESIZED = "input_image_raw", "input_image"
ABOUT = (
    "Detectors miss things; a person decided about every picture here. Redaction and replacement"
    " change the benchmark: its scores are not those of the original pictures."
)


@dataclasses.dataclass(frozen=True)
class ExportSummary:
    """The result of an export.

    Attributes:
      rows: that were written.
      actions: of their pictures, counted by row.
      rewritten: rows whose instruction is another one than in the data set.
      dropped: rows that a person dropped.
      not_reviewed: rows without a decision.
      not_scanned: rows that the scan did not see, or could not read.
      head: hash of the audit log's last entry.
    """

    rows: int
    actions: dict[str, int]
    rewritten: int
    dropped: int
    not_reviewed: int
    not_scanned: int
    head: str


def export_dataset(
    samples: Iterable[Sample],
    findings: Findings,
    decisions: Mapping[str, tuple[str, Decision]],
    *,
    benchmark: Benchmark,
    public_folder: epath.PathLike | None,
    folder: epath.PathLike,
    audit: epath.PathLike,
    write: Writer,
    inputs: Mapping[str, str],
    tell: Callable[[], object] = lambda: None,
) -> ExportSummary:
    """Write the reviewed samples of a data set, and add an entry for each to the audit log.

    Args:
      samples: of the data set that was scanned.
      findings: of the scan.
      decisions: of `read_decisions`.
      benchmark: whose columns are written.
      public_folder: of the look-alikes.
      folder: to make.
      audit: the log, outside the folder.
      write: of WRITERS.
      inputs: names and SHA-256 of the files of findings and decisions, for the log.
      tell: is called for each sample.

    Raises:
      UserError: nothing was reviewed, the data set is not the one that was scanned, a place is
        taken, or the log is broken or inside the folder.
    """
    check_new(folder, "output")
    if is_inside(audit, folder):
        raise UserError(f"--audit={audit} is in the folder that is given away; put it elsewhere.")
    verify_log(audit)
    by_id = {sample.id: sample for sample in samples}
    by_request = {
        request.id: (picture, number)
        for picture in findings.pictures
        for number, request in enumerate(picture.requests)
    }
    counts: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []

    def rows() -> Iterator[Row]:
        for sample in by_id.values():
            tell()
            if sample.id not in by_request:
                counts["not_scanned"] += 1
                continue
            picture, number = by_request[sample.id]
            if picture.digest not in decisions:
                counts["not_reviewed"] += 1
                continue
            reviewer, decision = decisions[picture.digest]
            if decision.action == "drop":
                counts["dropped"] += 1
                continue
            request, text = picture.requests[number], decision.instructions[number]
            if sample.instruction != request.instruction:
                raise UserError(
                    f"the instruction of {'/'.join(filter(None, sample.id))} is not the one that"
                    " was scanned; give that data set, or scan again."
                )
            read = dataclasses.replace(picture, requests=[request])
            private = decode_image(read_scanned(read, by_id, findings.source), "/".join(sample.id))
            made = _carry_out(decision, private, picture, public_folder)
            key = _public_key(findings.secret, sample.id.key)
            files = _picture_files(made, benchmark)
            counts["rows"] += 1
            counts["rewritten"] += text != request.instruction
            actions[decision.action] += 1
            entries.append(_entry(request, picture, decision, reviewer, text, key, files))
            yield _row(benchmark, sample, text, key, files)

    with making_folder(folder) as temporary:
        write(temporary, rows())
        if not counts["rows"]:
            raise UserError(
                "none of the samples was reviewed and is to be kept; give the decisions of the page"
                " that review made (--decisions)."
            )
        numbers = {
            name: counts[name]
            for name in ("rows", "rewritten", "dropped", "not_reviewed", "not_scanned")
        }
        end = {"event": "export", "scan": findings.scan, "inputs": dict(inputs)}
        time = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        last = {**end, "actions": dict(actions), **numbers, "detectors": findings.detectors}
        head = append_entries(audit, [time | entry for entry in (*entries, last)])
        export = ExportSummary(actions=dict(actions), head=head, **numbers)
        summary = {"about": ABOUT, "benchmark": benchmark.name, **dataclasses.asdict(export)}
        write_json(temporary / SUMMARY, summary | {"detectors": findings.detectors})
    return export


def _carry_out(
    decision: Decision,
    private: Image.Image,
    picture: PictureFindings,
    public_folder: epath.PathLike | None,
) -> Image.Image:
    """The picture to publish: RGB, without metadata."""
    if decision.action == "redact":
        return redact_picture(private, decision.boxes)
    if decision.action == "replace":
        one = next(one for one in picture.look_alikes if one.digest == decision.look_alike)
        return open_public(one, public_folder)
    assert decision.action == "keep"
    return private


def _public_key(secret: str, key: str) -> str:
    """32 hexadecimal digits, as GEdit's keys have; samples that shared a key still do."""
    return hmac.digest(bytes.fromhex(secret), key.encode(), hashlib.sha256).hex()[:32]


def _picture_files(picture: Image.Image, benchmark: Benchmark) -> dict[str, bytes]:
    """The picture as PNG, for each of the benchmark's columns; GEdit has a resized one, too."""
    files = {column: _to_png(picture) for column in benchmark.pictures if column != RESIZED}
    if RESIZED in benchmark.pictures:
        small = RAW in benchmark.pictures
        files[RESIZED] = _to_png(picture.resize(_resized(*picture.size)) if small else picture)
    return files


def _resized(width: int, height: int) -> tuple[int, int]:
    """Multiples of MULTIPLE next to a picture of this shape with an area of SIDE^2."""
    ratio = math.sqrt(width / height)
    across, down = round(SIDE * ratio / MULTIPLE), round(SIDE / ratio / MULTIPLE)
    return max(1, across) * MULTIPLE, max(1, down) * MULTIPLE


def _to_png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")  # which decode_image has taken all metadata off
    return stream.getvalue()


def _row(
    benchmark: Benchmark, sample: Sample, text: str, key: str, files: Mapping[str, bytes]
) -> Row:
    """A row with the benchmark's own column names."""
    values = {
        "task": sample.id.task,
        "key": key,
        "instruction": text,
        "language": sample.id.language,
        "intersection": sample.intersection,
    }
    texts = {names[0]: values[field] for field, names in benchmark.columns.items()}
    pictures = {benchmark.pictures[name][0]: files[name] for name in benchmark.pictures}
    return texts | pictures


def _entry(
    request: RequestedEdit,
    picture: PictureFindings,
    decision: Decision,
    reviewer: str,
    text: str,
    key: str,
    files: Mapping[str, bytes],
) -> dict[str, Any]:
    """A sample's line of the log: hashes of what is private, what was decided, what went out."""
    return {
        "event": "sample",
        "task": request.task,
        "language": request.language,
        "key": key,
        "original": {
            "sample": _sha256("/".join(request.id).encode()),
            "picture": picture.digest,
            "instruction": _sha256(request.instruction.encode()),
        },
        "reviewer": reviewer,
        "action": decision.action,
        "boxes": [dataclasses.asdict(box) for box in decision.boxes],
        "look_alike": decision.look_alike,
        "rewritten": text != request.instruction,
        "exported": {name: _sha256(data) for name, data in files.items()}
        | {"instruction": _sha256(text.encode())},
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
