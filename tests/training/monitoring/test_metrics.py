import contextlib
import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from step1x_jax import files
from step1x_jax.errors import UserError
from step1x_jax.training.monitoring.metrics import FILE, MetricsWriter, read_metrics

VALUES = {"loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3, "param_norm": 2.0}


def write(workdir, first, last):
    metrics = MetricsWriter(workdir, first, 100)
    for step in range(first + 1, last + 1):
        metrics.advance(step)
        metrics.write(step, VALUES | {"loss": float(step)})
    metrics.close()


def test_rows(tmp_path, capsys):
    write(tmp_path, 0, 3)
    lines = (tmp_path / FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == read_metrics(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 3)]
    assert rows[1]["steps_per_second"] > 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[2].startswith("step   3/100  loss 3.0000")
    assert out[2].endswith("left")


def test_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_going_on_drops_later_rows(tmp_path):
    write(tmp_path, 0, 5)
    with (tmp_path / FILE).open("a") as f:
        f.write('{"step": 6, "lo')  # a crash in the middle of a row
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    write(tmp_path, 3, 6)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def events(data):
    at = 0
    while at < len(data):  # TFRecord: length, its checksum, payload, its checksum
        (length,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length


def test_tensorboard(tmp_path):
    write(tmp_path, 0, 2)
    write(tmp_path, 1, 2)
    first, second = (
        list(events(p.read_bytes())) for p in sorted((tmp_path / "tensorboard").iterdir())
    )
    scalars = {(e.step, v.tag): v.simple_value for e in first for v in e.summary.value}
    assert scalars[2, "loss"] == 2
    assert scalars[1, "grad_norm"] == 1
    # The second process makes TensorBoard discard what the first wrote from step 2 on.
    starts = [e.step for e in second if e.session_log.status == SessionLog.START]
    assert starts == [2]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    metrics = MetricsWriter(tmp_path, 0, 100)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to("/dev/full")  # every write fails with ENOSPC
    with pytest.raises(UserError, match="No space left on device"):
        metrics.write(1, VALUES)
    metrics.close()


def test_on_an_object_store_rows_are_put_before_a_checkpoint_and_at_the_end(store, monkeypatch):
    workdir = "gs://bucket/run"
    metrics = MetricsWriter(workdir, 0, 100)
    store.freeze_listings()
    for step in (1, 2):
        metrics.write(step, VALUES)
    assert read_metrics(workdir) == []  # a store accepts about one change of an object per second
    metrics.flush()
    metrics.write(3, VALUES)
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2]
    metrics.close()
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3]

    metrics = MetricsWriter(workdir, 1, 100)  # resumes from a checkpoint of step 1
    assert [row["step"] for row in read_metrics(workdir)] == [1]
    with monkeypatch.context() as patch:
        patch.setattr(files, "BETWEEN_PUTS", -1.0)
        metrics.write(2, VALUES)
    # Killed here: what was uploaded is there.
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2]
    (first, second) = (name for name in store.names if "tensorboard/events.out" in name)
    read = [[(e.step, v.tag) for e in events(store.get(name)[1]) for v in e.summary.value]
            for name in (first, second)]  # fmt: skip
    assert {(3, "loss")} <= set(read[0])
    assert {(2, "loss")} <= set(read[1])


def test_a_store_that_takes_nothing_is_one_sentence(store):
    metrics = MetricsWriter("gs://bucket/run", 0, 100)
    metrics.write(1, VALUES)
    store.full = True
    with pytest.raises(
        UserError, match=r"gs://bucket/run/metrics\.jsonl could not be written .*takes nothing"
    ):
        metrics.flush()
    metrics.close()


def test_what_is_no_row_is_left_out_and_the_rest_stays(tmp_path):
    lines = [
        b'{"step": 1, "loss": 2.5}', b"5", b'{"step": "x"}', b'{"loss": 1}', b"\xff", b"[" * 99_999,
        b'{"step": 2, "held_out_loss": NaN}', b'{"step": true}', b'{"step": 3, "loss": "a"}',
        b'{"step": 4, "loss": 1.5}', b'{"step": 5, "lo',
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    rows = [{"step": 1, "loss": 2.5}, {"step": 2, "held_out_loss": None}, {"step": 4, "loss": 1.5}]
    assert read_metrics(tmp_path) == rows
    with contextlib.closing(MetricsWriter(tmp_path, 9, 10)):
        assert read_metrics(tmp_path) == rows


def test_numbers_that_are_not_finite_are_null(tmp_path):
    values = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0, "held_out_loss": float("nan")}
    with contextlib.closing(MetricsWriter(tmp_path, 0, 1)) as metrics:
        metrics.write(1, values)
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row["held_out_loss"] is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_other_things_in_the_place_are_one_sentence(tmp_path, name):
    if name == "tensorboard":
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl (cannot be read|could not be written)"):
        MetricsWriter(tmp_path, 0, 1)
