"""Writes encoded batches to shards in a thread, while the devices compute the next batch."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from step1x_jax.data.batch_encoder import EncodedBatch, EncodedEdit
from step1x_jax.data.manifest import BadRow
from step1x_jax.data.shards import ShardWriter

IN_FLIGHT = 2  # batches that are dispatched and not yet written

# One entry per edit: None if its record was written, else the reason why not.
Outcomes = list[BadRow | None]


class BatchWriter:
    """Writes batches in order. A context manager: on exit it drops the batches not yet started.

    An error in the thread is raised by one of the next calls.
    """

    def __init__(self, shards: ShardWriter):
        """Store the writer of the shards, which no other thread may use until the context ends."""
        self._shards = shards
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Outcomes]] = deque()

    def write(self, batch: EncodedBatch) -> Outcomes:
        """Queue a batch; waits until fewer than IN_FLIGHT batches are unwritten.

        Returns:
          The outcomes of the edits of earlier batches that have been written since the last call.
        """
        self._waiting.append(self._thread.submit(self._write_batch, batch))
        return self._take(leave=IN_FLIGHT - 1)

    def finish(self) -> Outcomes:
        """Wait until all batches are written; return the outcomes not returned before."""
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
        if problem := record.find_non_finite():
            reason = f"the models' output is unusable: {problem}; check the files of the models"
            return BadRow(edit.edit.triplet.row, reason)
        self._shards.write(record)
        return None

    def __enter__(self) -> "BatchWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
