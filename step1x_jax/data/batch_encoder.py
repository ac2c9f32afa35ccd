"""Runs batches of edits through the frozen models, without waiting for their results."""

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
    """The frozen models. Both are always given whole batches, B examples.

    Attributes:
      encoder: of picture and instruction.
      encode_images: (B, H, W, 3) uint8 -> latents (B, H/8, W/8, 16).
    """

    encoder: QwenEncoder
    encode_images: Callable[[np.ndarray], Array]


@dataclasses.dataclass
class EncodedEdit:
    """An edit and what the models give for it; T tokens, C width of the language model.

    Attributes:
      edit: which.
      text: (T, C), of the instruction with the source picture.
      negative: (T', C), of the empty instruction with it; None if the edit has none.
      source: latents (h, w, 16).
      target: latents (h, w, 16).
    """

    edit: LoadedEdit
    text: OutputRow
    negative: OutputRow | None
    source: OutputRow
    target: OutputRow

    def wait(self) -> None:
        """Returns when the devices are done with it."""
        for row in (self.text, self.negative, self.source, self.target):
            if row is not None:
                row.output.wait()

    def make_record(self) -> EditRecord:
        """The record; waits for the devices."""
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
    """Edits that went to the devices together.

    Attributes:
      edits: of the batch, in the order in which they were given.
      clock: to be told when the devices are done.
    """

    edits: list[EncodedEdit]
    clock: IdleClock

    def wait(self) -> None:
        """Returns when the devices are done with it. Called once: the idle clock goes by it."""
        for edit in self.edits:
            edit.wait()
        self.clock.stop()


class BatchEncoder:
    """Runs the models on batches; what depends on the source alone is computed once per source."""

    def __init__(self, models: Models, batch_size: int):
        """Takes the models, and how many edits go through them at once."""
        self._models = models
        self._batch_size = batch_size
        self._clock = IdleClock()
        self._sources = SourceCache(self._encode_sources)
        self._negatives = SourceCache(self._embed_negatives)

    @property
    def idle(self) -> float:
        """Seconds in which the devices had nothing to do."""
        return self._clock.idle

    def encode(self, edits: Sequence[LoadedEdit]) -> EncodedBatch:
        """Starts the models; the devices may still be at work when this returns.

        Args:
          edits: of one bucket, at most batch_size.
        """
        self._clock.start()
        targets = self._encode_images([edit.target for edit in edits])
        texts = self._embed([(edit.picture, edit.prompt) for edit in edits])
        sources = self._sources.get(edits)
        negatives = self._get_negatives(edits)
        results = zip(edits, texts, negatives, sources, targets, strict=True)
        return EncodedBatch([EncodedEdit(*one) for one in results], self._clock)

    def _get_negatives(self, edits: Sequence[LoadedEdit]) -> list[OutputRow | None]:
        """One for each edit that has a negative prompt, None for the others."""
        rows = iter(self._negatives.get([e for e in edits if e.negative_prompt is not None]))
        return [None if edit.negative_prompt is None else next(rows) for edit in edits]

    def _encode_sources(self, edits: list[LoadedEdit]) -> list[OutputRow]:
        return self._encode_images([edit.source for edit in edits])

    def _embed_negatives(self, edits: list[LoadedEdit]) -> list[OutputRow]:
        return self._embed([(edit.picture, edit.negative_prompt or []) for edit in edits])

    def _encode_images(self, images: list[np.ndarray]) -> list[OutputRow]:
        """Latents of at most batch_size pictures of one shape."""
        batch = self._fill(images)
        latents = self._models.encode_images(np.stack(batch))
        return ModelOutput(latents, len(images)).rows()

    def _embed(self, examples: list[tuple[PicturePatches, list[int]]]) -> list[OutputRow]:
        """Embeddings of at most batch_size prompts with their pictures."""
        pictures, prompts = map(list, zip(*self._fill(examples), strict=True))
        embeddings, lengths = self._models.encoder.embed(pictures, prompts)
        return ModelOutput(embeddings, len(examples), lengths).rows()

    def _fill(self, examples: list[Example]) -> list[Example]:
        """A whole batch, the last example repeated, so that one program serves all sizes."""
        return examples + examples[-1:] * (self._batch_size - len(examples))
