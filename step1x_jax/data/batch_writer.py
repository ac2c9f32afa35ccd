"""Encoded batches into shards, by a thread, while the devices have the next batch."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from step1x_jax.data.batch_encoder import EncodedBatch, EncodedEdit
from step1x_jax.data.manifest import BadRow
from step1x_jax.data.shards import ShardWriter

IN_FLIGHT = 2  # batches that the devices may have before them

Outcomes = list[BadRow | None]  # of edits: None: its record is written, else why there is none


class BatchWriter:
    """Writes batches in the order in which they are given; a context, at whose end none is left.

    An error in the thread is raised by one of the next calls.
    """

    def __init__(self, shards: ShardWriter):
        """Takes the shards that the records go to; until the end no other thread may use them."""
        self._shards = shards
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Outcomes]] = deque()

    def write(self, batch: EncodedBatch) -> Outcomes:
        """Hands over a batch; waits while IN_FLIGHT of them are not written.

        Returns:
          What became of the edits of batches that are written, which were given earlier.
        """
        self._waiting.append(self._thread.submit(self._write_batch, batch))
        return self._take(leave=IN_FLIGHT - 1)

    def finish(self) -> Outcomes:
        """Waits until all batches are written; returns what became of the last ones' edits."""
        return self._take(leave=0)

    def _take(self, leave: int) -> Outcomes:
        outcomes: Outcomes = []
        while len(self._waiting) > leave:
            outcomes += self._waiting.popleft().result()
        return outcomes

    def _write_batch(self, batch: EncodedBatch) -> Outcomes:
        batch.wait()
        return [self._write_edit(edit) for edit in batch.edits]

    def _write_edit(self, edit: EncodedEdit) -> BadRow | None:
        record = edit.make_record()
        if problem := record.not_finite():
            reason = f"the models give for it: {problem}; are their files whole?"
            return BadRow(edit.edit.triplet.row, reason)
        self._shards.write(record)
        return None

    def __enter__(self) -> "BatchWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
