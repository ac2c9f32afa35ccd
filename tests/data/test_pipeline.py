import dataclasses
import errno
import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from step1x_jax.data import shards
from step1x_jax.data.manifest import (
    MANIFEST,
    Manifest,
    SourceInfo,
    read_manifest,
    write_dataset,
    write_manifest,
)
from step1x_jax.data.mixing import BucketPlan, count_turns, mix_manifests
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.data.shards import open_shard_writer
from step1x_jax.errors import UserError
from tests.data.examples import make_record
from tests.data.test_shards import damage

SIZES = [(4, 4), (2, 8), (4, 4), (8, 2), (4, 4)]
RECORDS = [make_record(i, SIZES[i % 5], tokens=4 + i % 3) for i in range(40)]
BY_TARGET = {record.target.tobytes(): record for record in RECORDS}
STEPS = 25


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, RECORDS)
    return str(folder)


def batches(path, steps=STEPS, *, start=0, process=(0, 1), seed=7, length=9, **config):
    index, count = process
    config = DataConfig(**({"path": path, "batch_size": 4} | config))
    iterator = make_batches(
        config, text_length=length, seed=seed, start_step=start,
        process_index=index, process_count=count,
    )  # fmt: skip
    return list(itertools.islice(iterator, steps))


def assert_same(left, right) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert a[name].tobytes() == b[name].tobytes()


def ids(batch) -> list[str]:
    return [BY_TARGET[target.tobytes()].id for target in batch["target"]]


def test_batches_contain_the_padded_records(path):
    for batch in batches(path, caption_dropout=0.0):
        assert batch["text"].shape == (4, 9, 8)
        assert batch["text_lengths"].dtype == np.int32
        assert batch["target"].shape == batch["source"].shape
        for i, target in enumerate(batch["target"]):
            record = BY_TARGET[target.tobytes()]
            assert batch["source"][i].tobytes() == record.source.tobytes()
            assert batch["ids"][i] == record.id
            assert batch["text_lengths"][i] == len(record.text)
            assert batch["text"][i, : len(record.text)].tobytes() == record.text.tobytes()
            assert not batch["text"][i, len(record.text) :].any()


def test_texts_are_padded_for_the_longest_of_the_data_set(path, caplog):
    """Not to all 640 tokens of the release; the edits of a step stay the same."""
    caplog.set_level("INFO", logger="absl")
    long, short = batches(path, length=640), batches(path, length=9)
    assert all(batch["text"].shape == (4, 64, 8) for batch in long)
    assert [ids(batch) for batch in long] == [ids(batch) for batch in short]
    assert "Texts have up to 6 of 640 tokens: 64 are computed." in caplog.text


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_processes_does_not_matter(path, count):
    parts = [batches(path, process=(i, count), caption_dropout=0.5) for i in range(count)]
    joined = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, batches(path, caption_dropout=0.5))


@pytest.mark.parametrize("threads", [0, 3])
def test_the_number_of_threads_does_not_matter(path, threads):
    assert_same(batches(path, threads=threads), batches(path))


@pytest.mark.parametrize("start", [1, 10, 24])
def test_seeking_equals_iterating(path, start):
    assert_same(batches(path, STEPS - start, start=start), batches(path)[start:])


def test_a_far_step_is_reached_without_the_steps_before_it(path):
    """Otherwise it would take days."""
    assert batches(path, 1, start=10**9)


def test_every_record_occurs_once_in_an_epoch(path):
    """40 records in batches of 4 and buckets of 24, 8 and 8: 5 turns a round, 10 steps an epoch."""
    seen = [name for batch in batches(path, 50) for name in ids(batch)]
    counts = {name: seen.count(name) for name in set(seen)}
    assert set(counts.values()) == {5}
    assert len(counts) == 40
    largest = [name for name in seen if RECORDS[int(name)].source.shape == (4, 4, 16)]
    for epoch in range(5):
        assert len(set(largest[24 * epoch : 24 * (epoch + 1)])) == 24
    assert largest[:24] != largest[24:48]  # each epoch has its own order


def test_caption_dropout_uses_the_negative_embedding(path):
    kept = batches(path, 100, caption_dropout=0.0)
    some = batches(path, 100, caption_dropout=0.3)
    dropped = 0
    for batch, whole in zip(some, kept, strict=True):
        for i, target in enumerate(batch["target"]):
            assert target.tobytes() == whole["target"][i].tobytes()
            record = BY_TARGET[target.tobytes()]
            length = batch["text_lengths"][i]
            text = batch["text"][i, :length].tobytes()
            is_dropped = text == record.negative_text.tobytes()
            assert is_dropped or text == record.text.tobytes()
            dropped += is_dropped
    assert 85 <= dropped <= 155  # 400 draws at 0.3: 120 +- four standard deviations of 9
    assert all((b["text_lengths"] == 3).all() for b in batches(path, 5, caption_dropout=1.0))


def test_dropout_without_negatives_is_refused(tmp_path):
    record = make_record(0)
    record.negative_text = None
    write_dataset(tmp_path, [record])
    with pytest.raises(UserError, match=r"caption_dropout is 0\.9; only 0\.0% of the records"):
        batches(str(tmp_path), caption_dropout=0.9)
    assert batches(str(tmp_path), caption_dropout=0.0)


def test_batches_without_weights_never_change(path):
    """Runs started before weights existed must continue with the same data."""
    digest = hashlib.sha256()
    for batch in batches(path, 40, start=3, caption_dropout=0.3):
        for name in sorted(batch.keys() - {"ids"}):
            digest.update(batch[name].tobytes())
    assert digest.hexdigest().startswith("10c497e88da055e5")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """30 records of one source in two buckets (24, 6) and 10 of another (4, 6); weights 1 : 3.

    A quarter of the records has a negative embedding.
    """
    folder = tmp_path_factory.mktemp("mixed")
    infos = []
    for source, sizes in enumerate(([(4, 4)] * 4 + [(2, 8)], [(4, 4)] * 2 + [(2, 8)] * 3)):
        with open_shard_writer(folder, f"s{source}") as shards:
            for i in range(30 if source == 0 else 10):
                record = make_record(100 * source + i, sizes[i % 5])
                if i % 4:
                    record.negative_text = None
                shards.write(record)
        infos += [dataclasses.replace(info, source=source) for info in shards.close()]
    manifest = Manifest({}, infos, sources=[SourceInfo("large", 1.0), SourceInfo("small", 3.0)])
    write_manifest(folder / MANIFEST, manifest)
    return str(folder)


NUMBERS = {make_record(i, size).target.tobytes(): i for size in ((4, 4), (2, 8))
           for i in [*range(30), *range(100, 110)]}  # fmt: skip


@pytest.fixture(scope="module")
def undropped(mixed):
    """2000 draws with their own instructions."""
    return batches(mixed, 250, batch_size=8, caption_dropout=0.0)


@pytest.mark.slow
def test_weights_are_shares_of_the_draws_independent_of_sizes(undropped):
    numbers, by_bucket = [], Counter()
    for batch in undropped:
        drawn = [NUMBERS[target.tobytes()] for target in batch["target"]]
        numbers += drawn
        by_bucket[batch["target"].shape[1]] += len(drawn)
    counts = Counter(numbers)
    large = [counts[i] for i in range(30)]
    small = [counts[i] for i in range(100, 110)]
    # Buckets are drawn at random: the standard deviation of 250 draws at 0.5 is 0.032.
    assert abs(sum(small) / 2000 - 0.75) < 0.03
    # rates: 0.25 / 30 and 0.75 / 10; the bucket of 4 x 4 has 24 and 4 of them
    assert abs(by_bucket[4] / 2000 - (24 * 0.25 / 30 + 4 * 0.75 / 10)) < 0.13
    for counted, bucket in ((large, [i for i in range(30) if i % 5 < 4]), (small, [0, 1, 5, 6])):
        inside = [counted[i] for i in bucket]
        assert max(inside) - min(inside) <= 1  # each record of a source before any is repeated
    assert min(small) > 7 * max(large)


def test_mixtures_do_not_depend_on_processes_or_the_start_step(mixed):
    whole = batches(mixed, 20, caption_dropout=0.1)
    assert_same(batches(mixed, 9, start=11, caption_dropout=0.1), whole[11:])
    parts = [batches(mixed, 20, process=(i, 2), caption_dropout=0.1) for i in range(2)]
    joined = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.slow
def test_dropout_has_the_right_rate_if_few_records_have_negatives(mixed, undropped):
    """8 of 30 and 3 of 10 have negatives: 0.25 * 8/30 + 0.75 * 3/10 = 0.292 of all draws."""
    some = batches(mixed, 250, batch_size=8, caption_dropout=0.1)
    dropped = Counter()
    for batch, whole in zip(some, undropped, strict=True):
        for i, target in enumerate(batch["target"]):
            if batch["text"][i].tobytes() != whole["text"][i].tobytes():
                dropped[NUMBERS[target.tobytes()] % 100 % 4] += 1
    assert set(dropped) == {0}  # only records that have a negative
    assert 140 < dropped[0] < 260  # 2000 draws at 0.1: 4.5 standard deviations of 13
    with pytest.raises(UserError, match=r"caption_dropout is 0\.3; only 29\.2% of the records"):
        batches(mixed, 1, caption_dropout=0.3)


# Large, middle and small pictures: 137, 41 and 33 tokens with a text of 9, so that batches of one,
# three and four times data.batch_size are the largest that have no more tokens than the first.
MULTIPLES = {(16, 16): 1, (8, 8): 3, (4, 12): 4}
COUNTS = {(16, 16): 12, (8, 8): 24, (4, 12): 36}


@pytest.fixture(scope="module")
def resolutions(tmp_path_factory):
    """Two data sets: one with the largest size, one with the two others."""
    folder = tmp_path_factory.mktemp("resolutions")
    sizes = [size for size, count in COUNTS.items() for _ in range(count)]
    records = [make_record(1000 + i, size) for i, size in enumerate(sizes)]
    write_dataset(folder / "large", records[:12])
    write_dataset(folder / "small", records[12:])
    return f"{folder / 'large'},{folder / 'small'}"


def test_small_pictures_have_larger_batches_and_every_edit_is_drawn_equally_often(resolutions):
    """Turns of 12 x 12 / 1, 24 x 12 / 3, 36 x 12 / 4, divided by 12: every edit four times."""
    seen, steps = Counter(), Counter()
    for batch in batches(resolutions, 12 + 8 + 9):
        size = batch["target"].shape[1:3]
        assert {len(x) for x in batch.values()} == {4 * MULTIPLES[size]}
        steps[size] += 1
        seen.update(batch["ids"].tolist())
    assert steps == {(16, 16): 12, (8, 8): 8, (4, 12): 9}
    assert len(seen) == 72
    assert set(seen.values()) == {4}


@pytest.mark.parametrize("count", [2, 4])
def test_resolutions_do_not_depend_on_processes_or_the_start_step(resolutions, count):
    whole = batches(resolutions, 20, caption_dropout=0.5)
    assert_same(batches(resolutions, 9, start=11, caption_dropout=0.5), whole[11:])
    parts = [
        batches(resolutions, 20, process=(i, count), caption_dropout=0.5) for i in range(count)
    ]
    joined = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_data_sets_are_mixed_by_weights(resolutions, path, mixed):
    """Large pictures are a quarter of the draws, independent of their batch size."""
    manifests = [read_manifest(f"{folder}/{MANIFEST}") for folder in resolutions.split(",")]
    # (4, 12), (8, 8), (16, 16): 0.45, 0.3 and 0.25 of 100 000 draws, in batches of 4, 3, 1 times
    assert count_turns(mix_manifests(manifests, (1.0, 3.0)), (4, 3, 1)) == [11_250, 10_000, 25_000]
    shapes = [batch["target"].shape for batch in batches(resolutions, 60, weights=(1.0, 99.0))]
    assert sum(shape[1:3] == (16, 16) for shape in shapes) < 10  # 2 +- 1.4; by size 25

    # a data set's own weights hold within it: of `mixed`, 1/4 and 3/4
    manifests = [read_manifest(f"{folder}/{MANIFEST}") for folder in (path, mixed)]
    shares = [source.weight for source in mix_manifests(manifests, (1.0, 4.0)).sources]
    assert shares == pytest.approx([1, 1, 3])
    # by size: 40 and 40 records
    shares = [source.weight for source in mix_manifests(manifests).sources]
    assert shares == pytest.approx([40, 10, 30])
    assert {source.weight for source in mix_manifests(manifests[:1] * 2).sources} == {None}


def test_data_sets_with_different_settings_are_refused(tmp_path):
    for name, settings in (("a", {"quoting": "published"}), ("b", {"quoting": "words"})):
        write_dataset(tmp_path / name, RECORDS[:4], settings)
    with pytest.raises(UserError, match=r"b was made with quoting=words, .*a with published"):
        batches(f"{tmp_path / 'a'},{tmp_path / 'b'}", 1)
    with pytest.raises(UserError, match=r"data\.weights is \(1\.0,\); data\.path has 2"):
        batches(f"{tmp_path / 'a'},{tmp_path / 'b'}", 1, weights=(1.0,))
    with pytest.raises(UserError, match=r"data\.weights is \(0\.0,\); use positive"):
        batches(str(tmp_path / "a"), 1, weights=(0.0,))


def test_shapes_with_less_than_a_batch_are_warned_of_once(tmp_path, caplog):
    sizes = [(4, 4)] * 8 + [(2, 8), (2, 8), (8, 2)]
    write_dataset(tmp_path, [make_record(i, size) for i, size in enumerate(sizes)])
    for _ in range(2):  # held-out edits are opened at every evaluation
        for batch in batches(str(tmp_path), batch_size=4):
            assert len(batch["target"]) == 4
    (message,) = [r.message for r in caplog.records if "edits repeat in a batch" in r.message]
    assert "64x16 (2 of 4 edits), 16x64 (1 of 4 edits)." in message
    assert "32x32" not in message


MANY = """
import itertools, resource, sys
from pathlib import Path
from step1x_jax.data.manifest import MANIFEST, Manifest, write_manifest
from step1x_jax.data.pipeline import DataConfig, make_batches
from step1x_jax.data.shards import open_shard_writer
from tests.data.examples import make_record
shards = []
for part in range(40):
    with open_shard_writer(sys.argv[1], f"part-{part:02d}") as writer:
        for h in (2, 4, 6):
            writer.write(make_record(part * 10 + h, (h, 2)))
    shards += writer.close()
write_manifest(Path(sys.argv[1]) / MANIFEST, Manifest({}, shards))
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
config = DataConfig(path=sys.argv[1], batch_size=8)
batches = make_batches(config, text_length=9, seed=0, start_step=0)
seen = {name for batch in itertools.islice(batches, 30) for name in batch["ids"]}
print(len(seen))
"""


@pytest.mark.slow
def test_many_shards_are_read_with_few_open_files(tmp_path):
    """120 shards in 3 shapes; 80 files may be open."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "120"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_read_errors_of_the_system_are_not_damage(tmp_path, monkeypatch, number):
    write_dataset(tmp_path, RECORDS[:3])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_open", fails)
        with pytest.raises(UserError, match=f"could not be read .{os.strerror(number)}") as error:
            batches(str(tmp_path), max_bad_records=3)
    assert "damaged" not in str(error.value)
    assert "delete" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert batches(str(tmp_path))


@pytest.fixture
def damaged(tmp_path):
    """Ten records in two shards; numbers 3 and 7 are damaged."""
    records = RECORDS[0:50:5] + RECORDS[2:12:5]
    manifest = write_dataset(tmp_path, records[:5])
    with open_shard_writer(tmp_path, "more") as shards:
        for record in records[5:]:
            shards.write(record)
    manifest.shards += shards.close()
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    buckets = read_manifest(tmp_path / MANIFEST).buckets
    (infos,) = buckets.values()
    for info, index in ((infos[0], 3), (infos[1], 2)):
        offset = 0 if info.file.startswith("records") else 5
        damage(tmp_path / info.file, records[offset + index])
    return str(tmp_path)


def test_a_damaged_record_stops_training(damaged):
    with pytest.raises(UserError, match=r"record [23], is damaged .*max_bad_records"):
        batches(damaged)


def test_tolerated_records_are_replaced_counted_and_logged(damaged, caplog):
    first = batches(damaged, max_bad_records=2)
    assert sum("replaced by another" in r.message for r in caplog.records) == 2
    assert_same(first, batches(damaged, max_bad_records=5))
    parts = [batches(damaged, max_bad_records=2, process=(i, 2)) for i in (0, 1)]
    for whole, left, right in zip(first, *parts, strict=True):
        assert ids(whole) == ids(left) + ids(right)


def test_one_damaged_record_too_many_stops_training(damaged):
    with pytest.raises(UserError, match=r"more damaged records than data\.max_bad_records=1"):
        batches(damaged, max_bad_records=1)


def test_only_damaged_records_are_an_error(tmp_path):
    (info,) = write_dataset(tmp_path, RECORDS[:1]).shards
    damage(tmp_path / info.file, RECORDS[0])
    with pytest.raises(UserError, match="all records"):
        batches(str(tmp_path), max_bad_records=100)


def test_data_that_does_not_fit_the_config_is_refused_at_once(path, tmp_path):
    with pytest.raises(UserError, match=r"multiple of the 3 processes"):
        batches(path, process=(0, 3))
    with pytest.raises(UserError, match=r"texts of 6 tokens, model.text_length is 5"):
        batches(path, length=5)
    with pytest.raises(UserError, match="caption_dropout"):
        batches(path, caption_dropout=1.5)
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        batches(str(tmp_path))
    with pytest.raises(UserError, match=r"data\.path is not set"):
        batches("")
    write_dataset(tmp_path, [])
    with pytest.raises(UserError, match="no records"):
        batches(str(tmp_path))
    (info,) = write_dataset(tmp_path, RECORDS[:1]).shards
    (tmp_path / info.file).write_bytes(b"")
    with pytest.raises(UserError, match=f"{info.file} is damaged"):
        batches(str(tmp_path))


def test_the_plan_counts_the_batches_of_each_bucket():
    plan = BucketPlan([30, 20, 10], seed=1)
    taken = [plan[step] for step in range(60)]
    for bucket in range(3):
        numbers = [number for b, number in taken if b == bucket]
        assert numbers == list(range(10 * (3 - bucket)))
    assert BucketPlan([7], seed=1)[12345] == (0, 12345)


def test_buckets_steps_and_seeds_have_independent_draws(tmp_path):
    """Two buckets of equal length: with equal shuffles, their records would have the same order."""
    records = [make_record(i, SIZES[i % 2], tokens=5) for i in range(40)]
    write_dataset(tmp_path, records)
    by_target = {record.target.tobytes(): record for record in records}
    orders, dropped = {}, set()
    for seed in (7, 8):
        for batch in batches(str(tmp_path), 20, seed=seed, caption_dropout=0.5):
            names = [int(by_target[target.tobytes()].id) // 2 for target in batch["target"]]
            orders.setdefault((seed, batch["target"].shape), []).extend(names)
            dropped.add(tuple(batch["text_lengths"] == 3))  # negatives have 3 tokens
    first_epochs = {tuple(order[:20]) for order in orders.values()}
    assert all(sorted(order) == list(range(20)) for order in first_epochs)
    assert len(first_epochs) == 4  # two buckets, two seeds
    assert len(dropped) > 4  # of 16 patterns


def test_each_round_has_its_own_order_of_buckets():
    plan = BucketPlan([3, 2, 1], seed=1)
    rounds = {tuple(plan[6 * i + place][0] for place in range(6)) for i in range(8)}
    assert all(sorted(buckets) == [0, 0, 0, 1, 1, 2] for buckets in rounds)
    assert len(rounds) > 4  # 8 draws of 60 orders
