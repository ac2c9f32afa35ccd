"""Runs batches of edits through the frozen models without waiting for the results."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from step1x_jax.conditioning.encoder import QwenEncoder
from step1x_jax.conditioning.processor import PicturePatches
from step1x_jax.data.edit_loader import LoadedEdit
from step1x_jax.data.idle_clock import IdleClock
from step1x_jax.data.model_output import Array, ModelOutput, OutputRow
from step1x_jax.data.records import EditRecord
from step1x_jax.data.source_cache import SourceCache

Example = TypeVar("Example")


@dataclasses.dataclass
class Models:
    """The frozen models. Both always get full batches of B examples.

    Attributes:
      encoder: the text encoder, which sees picture and instruction.
      encode_images: the VAE's encoder: (B, H, W, 3) uint8 -> latents (B, H/8, W/8, 16).
    """

    encoder: QwenEncoder
    encode_images: Callable[[np.ndarray], Array]


@dataclasses.dataclass
class EncodedEdit:
    """An edit with its model outputs; T tokens, C width of the language model.

    Attributes:
      edit: the loaded edit.
      text: (T, C) embedding of the instruction with the source picture.
      negative: (T', C) embedding of the empty instruction with the source picture; None if the edit
        has none.
      source: (h, w, 16) latents of the source picture.
      target: (h, w, 16) latents of the target picture.
    """

    edit: LoadedEdit
    text: OutputRow
    negative: OutputRow | None
    source: OutputRow
    target: OutputRow

    def wait(self) -> None:
        """Wait until the devices have computed all outputs."""
        for row in (self.text, self.negative, self.source, self.target):
            if row is not None:
                row.output.wait()

    def make_record(self) -> EditRecord:
        """Return the record; waits for the devices."""
        triplet = self.edit.triplet
        return EditRecord(
            id=triplet.id,
            instruction=triplet.instruction,
            language=triplet.language,
            task=triplet.task,
            source_size=self.edit.source_size,
            target_size=self.edit.target_size,
            source_hash=self.edit.source_hash,
            text=self.text.fetch(),
            negative_text=None if self.negative is None else self.negative.fetch(),
            source=self.source.fetch(),
            target=self.target.fetch(),
        )


@dataclasses.dataclass
class EncodedBatch:
    """Edits that were dispatched to the devices as one batch.

    Attributes:
      edits: the edits of the batch, in the order of `BatchEncoder.encode`.
      clock: stopped when the devices have finished the batch.
    """

    edits: list[EncodedEdit]
    clock: IdleClock

    def wait(self) -> None:
        """Wait until the devices have finished the batch. Call it once: it stops the idle clock."""
        for edit in self.edits:
            edit.wait()
        self.clock.stop()


class BatchEncoder:
    """Runs the models on batches; what depends only on the source is computed once per source."""

    def __init__(self, models: Models, batch_size: int):
        """Store the models and the number of edits in a batch."""
        self._models = models
        self._batch_size = batch_size
        self._clock = IdleClock()
        self._sources = SourceCache(self._encode_sources)
        self._negatives = SourceCache(self._embed_negatives)

    @property
    def idle(self) -> float:
        """Seconds during which the devices were idle."""
        return self._clock.idle

    def encode(self, edits: Sequence[LoadedEdit]) -> EncodedBatch:
        """Dispatch a batch to the models; returns before the devices have finished.

        Args:
          edits: at most batch_size edits of one bucket.
        """
        self._clock.start()
        targets = self._encode_images([edit.target for edit in edits])
        texts = self._embed([(edit.picture, edit.prompt) for edit in edits])
        sources = self._sources.get(edits)
        negatives = self._get_negatives(edits)
        results = zip(edits, texts, negatives, sources, targets, strict=True)
        return EncodedBatch([EncodedEdit(*one) for one in results], self._clock)

    def _get_negatives(self, edits: Sequence[LoadedEdit]) -> list[OutputRow | None]:
        """Return one row for each edit: None for edits without a negative prompt."""
        rows = iter(self._negatives.get([e for e in edits if e.negative_prompt is not None]))
        return [None if edit.negative_prompt is None else next(rows) for edit in edits]

    def _encode_sources(self, edits: list[LoadedEdit]) -> list[OutputRow]:
        return self._encode_images([edit.source for edit in edits])

    def _embed_negatives(self, edits: list[LoadedEdit]) -> list[OutputRow]:
        return self._embed([(edit.picture, edit.negative_prompt or []) for edit in edits])

    def _encode_images(self, images: list[np.ndarray]) -> list[OutputRow]:
        """Encode at most batch_size pictures (H, W, 3) of one shape."""
        batch = self._fill(images)
        latents = self._models.encode_images(np.stack(batch))
        return ModelOutput(latents, len(images)).rows()

    def _embed(self, examples: list[tuple[PicturePatches, list[int]]]) -> list[OutputRow]:
        """Embed at most batch_size prompts with their pictures."""
        pictures, prompts = map(list, zip(*self._fill(examples), strict=True))
        embeddings, lengths = self._models.encoder.embed(pictures, prompts)
        return ModelOutput(embeddings, len(examples), lengths).rows()

    def _fill(self, examples: list[Example]) -> list[Example]:
        """Pad to a full batch with the last example, so that one compiled program is enough."""
        return examples + examples[-1:] * (self._batch_size - len(examples))
