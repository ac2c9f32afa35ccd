import dataclasses
import json

import numpy as np
import pytest
import safetensors

from step1x_jax.data import records
from step1x_jax.data.records import DamagedRecordError, decode_record, encode_record
from step1x_jax.errors import UserError
from tests.data.examples import assert_equal, make_record


def with_header(data: bytes, change) -> bytes:
    """Return the record with its header modified by `change`."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize("negative", [True, False])
def test_records_round_trip_bit_for_bit(negative):
    record = make_record(3)
    if not negative:
        record.negative_text = None
    assert_equal(record, decode_record(encode_record(record), "here", "make it again"))


def test_a_record_is_a_safetensors_file():
    record = make_record(3)
    tensors = dict(safetensors.deserialize(encode_record(record)))
    assert set(tensors) == {"text", "negative_text", "source", "target"}
    assert tensors["text"]["shape"] == list(record.text.shape)
    assert bytes(tensors["text"]["data"]) == record.text.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"text": np.zeros((3, 8), np.float32)},
        {"text": np.zeros((0, 8), records.BF16)},
        {"negative_text": np.zeros((3, 9), records.BF16)},
        {"source": np.zeros((4, 6, 16), records.BF16)},
        {
            "source": np.zeros((3, 4, 16), records.BF16),
            "target": np.zeros((3, 4, 16), records.BF16),
        },
        {"target": np.zeros((4, 4), records.BF16)},
        {"target": np.full((4, 4, 16), np.nan, records.BF16)},
        {"source": np.full((4, 4, 16), -np.inf, records.BF16)},
        {"text": np.full((5, 8), np.inf, records.BF16)},
        {"negative_text": np.full((5, 8), np.nan, records.BF16)},
    ],
)
def test_invalid_arrays_are_not_written(changes):
    with pytest.raises(ValueError, match="3: "):
        encode_record(dataclasses.replace(make_record(3), **changes))


def test_a_newer_version_asks_for_an_upgrade():
    def newer(header):
        header["__metadata__"]["schema_version"] = str(records.SCHEMA_VERSION + 1)

    with pytest.raises(UserError, match=r"here was written by a newer version.*upgrade") as error:
        decode_record(with_header(encode_record(make_record(1)), newer), "here", "make it again")
    assert not isinstance(error.value, DamagedRecordError)  # it must not be replaced by another


def _short(header):
    header["text"]["data_offsets"][1] -= 2


def _beyond(header):
    header["target"]["data_offsets"] = [n + 10**6 for n in header["target"]["data_offsets"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("__metadata__"),
        lambda header: header.pop("source"),
        lambda header: header["__metadata__"].pop("task"),
        lambda header: header["__metadata__"].update(schema_version="one"),
        lambda header: header["__metadata__"].update(source_size="[1]"),
        lambda header: header["__metadata__"].update(source_size="[640, -480]"),
        lambda header: header["__metadata__"].update(source_size="[640, 1.5]"),
        lambda header: header["__metadata__"].update(source_size='["640", "480"]'),
        lambda header: header["__metadata__"].update(source_size="[640, 1e400]"),
        lambda header: header["__metadata__"].update(source_size="[" * 100_000),
        lambda header: header["__metadata__"].update(source_size=[640, 480]),
        lambda header: header["__metadata__"].update(schema_version="9" * 5000),
        lambda header: header["__metadata__"].update(schema_version="1.0"),
        lambda header: header["__metadata__"].update(id=3),
        lambda header: header["text"].update(dtype="F16"),
        lambda header: header["text"].update(dtype="x" * 1_000_000),
        lambda header: header["text"].update(shape=[5, -8]),
        lambda header: header.update(mask=header["text"]),
        _short,
        _beyond,
    ],
)
def test_invalid_headers_are_damage(change):
    with pytest.raises(DamagedRecordError, match=r"here is damaged.*make it again") as error:
        decode_record(with_header(encode_record(make_record(1)), change), "here", "make it again")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_damage(value):
    record = make_record(1)
    data = encode_record(record)
    changed = record.text.copy()
    changed[2, 3] = value
    with pytest.raises(DamagedRecordError, match="text has numbers that are not finite"):
        decode_record(data.replace(record.text.tobytes(), changed.tobytes()), "here", "make it")


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_bytes_are_damage(size):
    with pytest.raises(DamagedRecordError, match="here is damaged"):
        decode_record(encode_record(make_record(1))[:size], "here", "make it again")
