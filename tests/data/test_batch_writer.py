import threading
from types import SimpleNamespace

import pytest

from step1x_jax.data.batch_writer import IN_FLIGHT, BatchWriter
from step1x_jax.errors import UserError
from tests.data.examples import make_record


class Batch:
    """A batch of one edit, whose record is ready when `done` is set."""

    def __init__(self, number):
        self.number = number
        self.done = threading.Event()
        triplet = SimpleNamespace(row=f"row {number}")
        self.edits = [SimpleNamespace(edit=SimpleNamespace(triplet=triplet), make_record=self.make)]

    def wait(self):
        assert self.done.wait(10)

    def make(self):
        assert self.done.is_set()  # the writer has waited for the devices
        record = make_record(self.number)
        if self.number == 1:
            record.source[0, 0, 0] = float("nan")
        return record


class Shards:
    def __init__(self):
        self.written = []

    def write(self, record):
        if record.id == "3":
            raise UserError("full")
        self.written.append(record.id)


def test_batches_are_written_in_order_and_outcomes_are_returned():
    shards, batches = Shards(), [Batch(number) for number in range(3)]
    with BatchWriter(shards) as writer:
        assert IN_FLIGHT == 2
        assert writer.write(batches[0]) == []  # does not block: the devices need the next batch
        batches[0].done.set()
        assert writer.write(batches[1]) == [None]
        assert shards.written == ["0"]
        batches[1].done.set()
        batches[2].done.set()
        (bad,) = writer.write(batches[2])
        assert bad.row == "row 1"
        assert "source has numbers that are not finite" in bad.reason
        assert writer.finish() == [None]
        assert writer.finish() == []
    assert shards.written == ["0", "2"]


def test_an_error_in_the_thread_is_raised_by_a_later_call():
    batches = [Batch(3), Batch(4)]
    for batch in batches:
        batch.done.set()
    with BatchWriter(Shards()) as writer:
        assert writer.write(batches[0]) == []
        with pytest.raises(UserError, match="full"):
            writer.write(batches[1])
    with BatchWriter(Shards()) as writer:
        writer.write(batches[0])
        with pytest.raises(UserError, match="full"):
            writer.finish()


def test_the_context_exits_after_the_batch_in_progress_is_written():
    shards, batch = Shards(), Batch(0)
    timer = threading.Timer(0.05, batch.done.set)
    with BatchWriter(shards) as writer:
        writer.write(batch)
        timer.start()
    assert shards.written == ["0"]
