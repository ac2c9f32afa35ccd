"""Chunks through the frozen models and onto disk.

Three things happen at once: threads read, decode and scale pictures, the devices run the models,
and a thread writes records.
"""

import dataclasses
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from step1x_jax.conditioning.encoder import QwenEncoder
from step1x_jax.conditioning.images import decode_image
from step1x_jax.conditioning.processor import Picture
from step1x_jax.data.buckets import bucket_sizes, fit, kept_part, nearest_bucket
from step1x_jax.data.chunks import Chunk, manifest_path, shard_prefix
from step1x_jax.data.identity import describe, read_content
from step1x_jax.data.manifest import BadRow, Manifest
from step1x_jax.data.records import EditRecord
from step1x_jax.data.shards import ShardWriter, writing_shards
from step1x_jax.data.sources import Triplet
from step1x_jax.errors import UserError
from step1x_jax.files import replacing

IN_FLIGHT = 2  # batches that the devices may have before them

Array = Any  # of numpy or jax
OnRow = Callable[[BadRow | None], None]


@dataclasses.dataclass
class Models:
    """The frozen models. Both are always given whole batches, B examples.

    Attributes:
      encoder: of picture and instruction.
      encode_images: (B, H, W, 3) uint8 -> latents (B, H/8, W/8, 16).
    """

    encoder: QwenEncoder
    encode_images: Callable[[np.ndarray], Array]


@dataclasses.dataclass
class _Loaded:
    """An edit whose pictures could be read, cut to its bucket and tokenised."""

    triplet: Triplet
    source: np.ndarray  # (H, W, 3) uint8
    target: np.ndarray
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_hash: str
    picture: Picture  # the source for the language model
    prompt: list[int]
    negative_prompt: list[int] | None


@dataclasses.dataclass
class _Row:
    """What became of an edit.

    Attributes:
      edit: which, or why it cannot be used.
      digests: of its pictures' contents.
    """

    edit: _Loaded | BadRow
    digests: list[str]


class PartMaker:
    """Takes chunks through the models and onto disk."""

    def __init__(
        self,
        output: epath.Path,
        settings: dict[str, Any],
        models: Models,
        batch_size: int,
        threads: int | None = None,
    ):
        self._output = output
        self._settings = settings
        self._models = models
        self._batch_size = batch_size
        self._threads = threads or os.cpu_count() or 1
        self._buckets = bucket_sizes(settings["size"])
        self._latents = _Remembered()
        self._negatives = _Remembered()
        self._clock = _IdleClock()
        self.pictures, self.seconds = 0, 0.0

    @property
    def waited(self) -> float:
        """Seconds of `seconds` in which the devices had nothing to do."""
        return self._clock.idle

    def make(self, chunks: Sequence[tuple[Chunk, int]], on_row: OnRow) -> dict[str, Manifest]:
        """Makes chunks; each gets its names when it is complete, its manifest last.

        `pictures`, `seconds` and `waited` tell how fast that goes.

        Args:
          chunks: to be made, and how often their pictures have changed.
          on_row: called once per edit.

        Returns:
          Their manifests by name.

        Raises:
          UserError: the disk is full.
        """
        rows = [triplet for chunk, _ in chunks for triplet in chunk.triplets]
        options = grain.ReadOptions(self._threads, max(self._threads, 2 * self._batch_size))
        edits = iter(grain.MapDataset.source(rows).map(self._load).to_iter_dataset(options))
        started = time.perf_counter()
        self._clock = _IdleClock()

        def told(bad: BadRow | None) -> None:
            self.pictures += 0 if bad else 2
            on_row(bad)

        made = {
            chunk.name: self._make_chunk(chunk, changes, edits, told) for chunk, changes in chunks
        }
        self.seconds = time.perf_counter() - started
        return made

    def _make_chunk(
        self, chunk: Chunk, changes: int, edits: Iterator[_Row], on_row: OnRow
    ) -> Manifest:
        manifest, digests = Manifest(self._settings, []), list[str]()

        def done(edits: list[_Loaded], broken: list[BadRow]) -> None:
            manifest.bad_rows.extend(broken)
            faults = {bad.row: bad for bad in broken}
            for edit in edits:
                on_row(faults.get(edit.triplet.row))

        waiting: dict[tuple[int, ...], list[_Loaded]] = {}  # by bucket
        with (
            replacing(manifest_path(self._output, chunk)) as manifest_file,
            writing_shards(self._output, shard_prefix(chunk, changes)) as shards,
            _Writing(done) as writing,
        ):
            for _ in chunk.triplets:
                row = next(edits)
                digests += row.digests
                edit = row.edit
                if isinstance(edit, BadRow):
                    manifest.bad_rows.append(edit)
                    on_row(edit)
                    continue
                batch = waiting.setdefault(edit.source.shape, [])
                batch.append(edit)
                if len(batch) == self._batch_size:
                    writing.submit(self._run(waiting.pop(edit.source.shape), shards))
            for batch in waiting.values():
                writing.submit(self._run(batch, shards))
            writing.finish()
            order = {triplet.row: i for i, triplet in enumerate(chunk.triplets)}
            manifest.bad_rows.sort(key=lambda bad: order[bad.row])
            manifest.shards = shards.close()
            manifest.pictures = describe(chunk.stamp, digests, changes)
            manifest_file.write_bytes(manifest.to_json().encode())
        return manifest

    def _load(self, triplet: Triplet) -> _Row:
        """All that the host does for an edit; runs in many threads."""
        contents = [read_content(path) for path in (triplet.source_path, triplet.target_path)]
        digests = [digest for _, digest in contents]
        try:
            return _Row(self._prepare(triplet, *contents), digests)
        except UserError as e:
            return _Row(BadRow(triplet.row, str(e)), digests)

    def _prepare(
        self,
        triplet: Triplet,
        before: tuple[bytes | UserError, str],
        after: tuple[bytes | UserError, str],
    ) -> _Loaded:
        """An edit from the contents of its pictures; raises UserError if it cannot be used."""
        for content, _ in (before, after):
            if isinstance(content, UserError):
                raise content
        data, digest = before
        assert isinstance(data, bytes)
        assert isinstance(after[0], bytes)
        source = decode_image(data, triplet.source_path)
        target = decode_image(after[0], triplet.target_path)
        bucket = nearest_bucket(*source.size, self._buckets)
        for name, image in (("source", source), ("target", target)):
            if (kept := kept_part(image.size, bucket)) < self._settings.get("min_kept", 0.0):
                raise UserError(
                    f"of its {name}, {image.width}x{image.height} pixels, {kept:.0%} would be kept"
                    f" in {bucket[0]}x{bucket[1]}, the shape for its source of"
                    f" {source.width}x{source.height}; see whether the pictures belong together,"
                    " or lower --min_kept."
                )
        fitted = fit(source, bucket)
        encoder = self._models.encoder
        picture = encoder.read(fitted)
        has_negative = draw(triplet) < self._settings["negatives"]
        return _Loaded(
            triplet=triplet,
            source=np.asarray(fitted),
            target=np.asarray(fit(target, bucket)),
            source_size=source.size,
            target_size=target.size,
            source_hash=digest,
            picture=picture,
            prompt=encoder.tokenize(picture, triplet.instruction),
            negative_prompt=encoder.tokenize(picture, "") if has_negative else None,
        )

    def _run(self, edits: list[_Loaded], shards: ShardWriter) -> "_Job":
        """Starts the models on edits of one bucket, at most a batch.

        Returns:
          What waits for the results, writes the records, and gives those that cannot be used.
        """
        self._clock.start()
        targets = self._encode_images([edit.target for edit in edits])
        texts = self._embed([(edit.picture, edit.prompt) for edit in edits])
        sources = self._latents.new(edits)
        new_latents = self._encode_images([edit.source for edit in sources]) if sources else ()
        asked = [edit for edit in edits if edit.negative_prompt is not None]
        negated = self._negatives.new(asked)
        new_negatives = (
            self._embed([(edit.picture, edit.negative_prompt or []) for edit in negated])
            if negated
            else ((), ())
        )

        def write() -> list[BadRow]:
            broken = []
            jax.block_until_ready((targets, texts, new_latents, new_negatives))
            self._clock.stop()
            self._latents.put(sources, _bf16(new_latents))
            self._negatives.put(negated, _unpadded(*new_negatives))
            rows = zip(edits, _bf16(targets), _unpadded(*texts), strict=False)
            for edit, target, text in rows:
                negative = None
                if edit.negative_prompt is not None:
                    negative = self._negatives.get(edit)
                record = EditRecord(
                    id=edit.triplet.id,
                    instruction=edit.triplet.instruction,
                    language=edit.triplet.language,
                    task=edit.triplet.task,
                    source_size=edit.source_size,
                    target_size=edit.target_size,
                    source_hash=edit.source_hash,
                    text=text,
                    negative_text=negative,
                    source=self._latents.get(edit),
                    target=target,
                )
                if problem := record.not_finite():
                    reason = f"the models give for it: {problem}; are their files whole?"
                    broken.append(BadRow(edit.triplet.row, reason))
                else:
                    shards.write(record)
            self._latents.forget()
            self._negatives.forget()
            return broken

        return _Job(edits, write)

    def _encode_images(self, images: list[np.ndarray]) -> Array:
        """(B, h, w, 16); the batch is filled up so that one program serves a bucket."""
        return self._models.encode_images(np.stack(self._filled(images)))

    def _embed(self, examples: list[tuple[Picture, list[int]]]) -> tuple[Array, np.ndarray]:
        pictures, prompts = map(list, zip(*self._filled(examples), strict=True))
        return self._models.encoder.embed(pictures, prompts)

    def _filled(self, examples: list) -> list:
        return examples + examples[-1:] * (self._batch_size - len(examples))


def draw(triplet: Triplet) -> float:
    """A number in [0, 1) that belongs to an edit: the same in every run, unlike its neighbours'."""
    digest = hashlib.sha256(f"{triplet.row} {triplet.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _bf16(latents: Array) -> list[np.ndarray]:
    return list(np.asarray(latents).astype(jnp.bfloat16))


def _unpadded(embeddings: Array, lengths: Array) -> list[np.ndarray]:
    """(T, C) bfloat16 each."""
    rows = np.asarray(embeddings)
    return [row[:n].astype(jnp.bfloat16) for row, n in zip(rows, lengths, strict=True)]


class _Remembered:
    """What was made of the latest sources: edits of one picture usually stand next to each other.

    64 pictures of the release's size are about 200 MB. `new` is called as batches are started, the
    rest as they are written, in the same order: what `new` takes for known is there when asked for.
    """

    LIMIT = 64

    def __init__(self) -> None:
        self._asked: dict[str, None] = {}
        self._made: dict[str, np.ndarray] = {}

    def new(self, edits: Sequence[_Loaded]) -> list[_Loaded]:
        """One edit for each source that is not remembered."""
        new = {e.source_hash: e for e in edits if e.source_hash not in self._asked}
        self._asked |= dict.fromkeys(new)
        for source_hash in list(self._asked)[: -self.LIMIT]:
            del self._asked[source_hash]
        return list(new.values())

    def put(self, edits: Sequence[_Loaded], values: Sequence[np.ndarray]) -> None:
        """Keeps what was made of edits that `new` gave; `values` may be longer."""
        for edit, value in zip(edits, values, strict=False):
            self._made[edit.source_hash] = value

    def get(self, edit: _Loaded) -> np.ndarray:
        """What was made of the edit's source."""
        return self._made[edit.source_hash]

    def forget(self) -> None:
        """Makes room, as `new` does."""
        for source_hash in list(self._made)[: -self.LIMIT]:
            del self._made[source_hash]


class _IdleClock:
    """Adds up the time in which no batch was on the devices."""

    def __init__(self) -> None:
        self.idle = 0.0
        self._running = 0
        self._since = time.perf_counter()
        self._lock = threading.Lock()

    def start(self) -> None:
        """A batch is given to the devices."""
        with self._lock:
            if self._running == 0:
                self.idle += time.perf_counter() - self._since
            self._running += 1

    def stop(self) -> None:
        """A batch is done; called by the thread that writes."""
        with self._lock:
            self._running -= 1
            self._since = time.perf_counter()


@dataclasses.dataclass
class _Job:
    """A batch that the devices have before them.

    Attributes:
      edits: of it.
      write: waits for the results and writes them; gives the edits that cannot be used.
    """

    edits: list[_Loaded]
    write: Callable[[], list[BadRow]]


class _Writing:
    """A thread that does its jobs one after the other; what they raise is raised here."""

    def __init__(self, done: Callable[[list[_Loaded], list[BadRow]], None]):
        """`done` is called here after each job, with what that was given and gave."""
        self._done = done

    def __enter__(self) -> "_Writing":
        self._thread = ThreadPoolExecutor(1)
        self._jobs: deque[tuple[_Job, Future[list[BadRow]]]] = deque()
        return self

    def submit(self, job: _Job) -> None:
        """Hands over a job; waits while IN_FLIGHT of them are not done."""
        self._jobs.append((job, self._thread.submit(job.write)))
        while len(self._jobs) >= IN_FLIGHT:
            self._finish_one()

    def finish(self) -> None:
        """Waits for all jobs."""
        while self._jobs:
            self._finish_one()

    def _finish_one(self) -> None:
        job, future = self._jobs.popleft()
        self._done(job.edits, future.result())

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
