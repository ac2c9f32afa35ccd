import dataclasses
import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.encoder import EncoderConfig
from step1x_jax.conditioning.images import open_image, to_array
from step1x_jax.data import shards
from step1x_jax.data.batch_encoder import Models
from step1x_jax.data.buckets import scale_and_crop
from step1x_jax.data.chunks import Input, split_chunks
from step1x_jax.data.edit_loader import draw_uniform
from step1x_jax.data.manifest import MANIFEST, BadRow, SourceInfo, read_manifest
from step1x_jax.data.precompute import REJECTED, make_settings, precompute
from step1x_jax.data.shards import ShardReader
from step1x_jax.data.sources import read_triplets
from step1x_jax.errors import UserError
from step1x_jax.files import fingerprint
from tests.data.examples import assert_equal

SETTINGS = {"size": 64, "encoder": "e", "text_length": 640, "negatives": 1.0}
BATCH = 3


class FakeModels:
    """A text encoder and a VAE whose outputs identify their inputs."""

    def __init__(self):
        self.loads = 0
        self.texts: list[str] = []  # embedded texts, without the padding of batches
        self.shapes: set[tuple] = set()
        self.fail_after = 10**9

    def load(self):
        self.loads += 1
        return Models(self, self.encode_images)

    def read(self, image):
        """Represent the picture by its mean."""
        return float(to_array(image).mean())

    def tokenize(self, picture, instruction):
        """Make one token for the picture and one per letter."""
        if "<|image_pad|>" in instruction:
            raise UserError("has a placeholder")
        return [0, *map(ord, instruction)]

    def embed(self, pictures, prompts):
        """Set all channels of all tokens to the picture's mean."""
        assert len(pictures) == len(prompts) == BATCH
        embeddings = np.zeros((BATCH, 20, 4), np.float32)
        lengths = np.array([len(ids) for ids in prompts], np.int32)
        for row, picture, length in zip(embeddings, pictures, lengths, strict=True):
            row[:length] = picture
        different = {(picture, *ids) for picture, ids in zip(pictures, prompts, strict=True)}
        self.texts += ["".join(map(chr, ids)) for _, _, *ids in different]
        if len(self.texts) > self.fail_after:
            raise KeyboardInterrupt
        return embeddings, lengths

    def encode_images(self, images):
        """Return means over 8 x 8 pixels, repeated in all channels."""
        assert images.dtype == np.uint8
        b, h, w, _ = images.shape
        self.shapes.add(images.shape)
        pixels = images.astype(np.float32) / 127.5 - 1
        means = pixels.reshape(b, h // 8, 8, w // 8, 8, 3).mean(axis=(2, 4, 5))
        return np.repeat(means[..., None], 16, axis=-1)


@pytest.fixture
def models():
    return FakeModels()


@pytest.fixture
def rows(tmp_path):
    """Seven edits of three pictures, two square and one wide."""
    rng = np.random.default_rng(0)
    for name, size in {"s0": (80, 80), "s1": (100, 90), "s2": (160, 90), "t": (70, 70)}.items():
        pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [
        {"source": f"s{i % 3}.png", "target": "t.png", "instruction": "ab" * (i % 4), "id": f"e{i}"}
        for i in range(7)
    ]


def make(tmp_path, rows, models, settings=SETTINGS, chunk_size=4, **options):
    """Make a data set; return its manifest with the rows that are left out."""
    outcome = run(tmp_path, [listed(tmp_path, rows)], models, settings, chunk_size, **options)
    manifest = outcome.manifest
    lines = (tmp_path / "out" / REJECTED).read_text().splitlines()
    assert [BadRow(**json.loads(line)) for line in lines] == outcome.bad_rows
    assert not manifest.bad_rows  # they are in REJECTED
    return dataclasses.replace(manifest, bad_rows=outcome.bad_rows)


def listed(tmp_path, rows, name="edits.json", weight=None):
    path = tmp_path / name
    path.write_text(json.dumps(rows))
    return Input(name, *read_triplets(path), weight)


def run(tmp_path, inputs, models, settings=SETTINGS, chunk_size=4, **options):
    return precompute(
        inputs, tmp_path / "out", settings, models.load,
        chunk_size=chunk_size, batch_size=BATCH, threads=2, **options,
    )  # fmt: skip


def read_all(folder):
    shards = read_manifest(folder / MANIFEST).shards
    readers = [ShardReader(folder, shard) for shard in shards]
    records = [reader[i] for reader in readers for i in range(len(reader))]
    return {record.id: record for record in records}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_records_contain_the_outputs_of_the_models(tmp_path, rows, models):
    manifest = make(tmp_path, rows, models)
    assert manifest.records == 7
    assert not manifest.bad_rows
    assert manifest.settings == SETTINGS
    assert manifest == read_manifest(tmp_path / "out" / MANIFEST)
    assert manifest.sources == [SourceInfo("edits.json", None)]
    assert sum(shard.negatives for shard in manifest.shards) == 7
    records = read_all(tmp_path / "out")
    assert set(records) == {row["id"] for row in rows}
    for row in rows:
        record, source = records[row["id"]], tmp_path / row["source"]
        size = (80, 48) if row["source"] == "s2.png" else (64, 64)
        picture, target = (
            scale_and_crop(open_image(tmp_path / row[k]), size) for k in ("source", "target")
        )
        assert record.instruction == row["instruction"]
        assert record.source_size == Image.open(source).size
        assert record.target_size == (70, 70)
        assert record.source_hash == hashlib.sha256(source.read_bytes()).hexdigest()
        mean = to_array(picture).mean().astype(jnp.bfloat16)
        assert record.text.shape == (1 + len(row["instruction"]), 4)
        assert record.negative_text.shape == (1, 4)
        assert (record.text == mean).all()
        assert (record.negative_text == mean).all()
        for latents, image in ((record.source, picture), (record.target, target)):
            wanted = models.encode_images(np.asarray(image)[None])[0]
            assert latents.tobytes() == wanted.astype(jnp.bfloat16).tobytes()


def test_negatives_are_made_once_per_picture_and_shapes_compile_once(tmp_path, rows, models):
    rows = [{**row, "instruction": row["id"]} for row in rows]
    make(tmp_path, rows, models, chunk_size=100)
    assert models.texts.count("") == 3
    assert sorted(filter(None, models.texts)) == [row["id"] for row in rows]
    assert models.shapes == {(BATCH, 64, 64, 3), (BATCH, 48, 80, 3)}


def test_a_second_run_finds_everything_done(tmp_path, rows, models):
    make(tmp_path, rows, models)
    before, calls = contents(tmp_path / "out"), []
    make(tmp_path, rows, models, on_row=calls.append)
    assert models.loads == 1
    assert contents(tmp_path / "out") == before
    assert calls == [None] * 7


def test_an_interrupted_run_resumes_and_equals_an_uninterrupted_one(tmp_path, rows, models):
    models.fail_after = 8  # in the second chunk
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, rows, models)
    out = tmp_path / "out"
    suffixes = [path.suffix for path in out.iterdir()]
    assert sorted(suffixes) == [".array_record", ".array_record", ".json"]
    chunks = split_chunks([listed(tmp_path, rows)], 4)
    leftover = (
        out / f".{chunks[1].name}-006x010.array_record.0123abcd.tmp"
    )  # of a process that was killed
    leftover.touch()
    other = out / ".part-00-00007-abc-6x10.array_record.1.tmp"  # of a process that is running
    other.touch()
    done = len(models.texts)
    models.fail_after = 10**9
    make(tmp_path, rows, models)
    assert not leftover.exists()
    assert other.exists()
    other.unlink()
    again = [text for text in models.texts[done:] if text]
    assert sorted(again) == sorted(row["instruction"] for row in rows[4:] if row["instruction"])
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("*.png"):
        (moved / path.name).write_bytes(path.read_bytes())
    make(moved, rows, FakeModels())
    assert contents(moved / "out").keys() == contents(out).keys()
    whole = read_all(moved / "out")
    for name, record in read_all(out).items():
        assert_equal(record, whole[name])


def test_only_changed_rows_and_pictures_are_made_again(tmp_path, rows, models):
    first = make(tmp_path, rows, models)
    rows[6]["instruction"] = "new"
    second = make(tmp_path, rows, models)
    assert read_all(tmp_path / "out")["e6"].instruction == "new"
    assert first.shards[:2] == second.shards[:2]
    Image.new("RGB", (80, 80)).save(tmp_path / "s0.png")  # a file of another size
    third = make(tmp_path, rows, models)
    hashes = [{shard.file.split("-")[3] for shard in one.shards} for one in (second, third)]
    assert not hashes[0] & hashes[1]  # each chunk has an edit of that picture
    assert (read_all(tmp_path / "out")["e0"].text == -1).all()


def test_a_missing_shard_is_made_again(tmp_path, rows, models):
    manifest = make(tmp_path, rows, models)
    (tmp_path / "out" / manifest.shards[0].file).unlink()
    make(tmp_path, rows, models)
    assert len(read_all(tmp_path / "out")) == 7


@pytest.mark.parametrize("change", [{"size": 128}, {"encoder": "other"}, {"text_length": 5}])
def test_other_settings_for_an_existing_output_are_refused(tmp_path, rows, models, change):
    make(tmp_path, rows, models)
    before = contents(tmp_path / "out")
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=rf"made with {name}=.*, now it is {value}"):
        make(tmp_path, rows, models, SETTINGS | change)
    assert contents(tmp_path / "out") == before


def test_bad_pictures_and_rows_are_reported_and_the_others_are_made(tmp_path, rows, models):
    (tmp_path / "torn.png").write_bytes((tmp_path / "s0.png").read_bytes()[:300])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    rows[1]["source"], rows[4]["target"], rows[5]["source"] = "torn.png", "dot.png", "nowhere.png"
    del rows[6]["instruction"]
    reported = []
    manifest = make(tmp_path, rows, models, on_row=reported.append)
    assert manifest.records == 3
    reasons = {bad.row: bad.reason for bad in manifest.bad_rows}
    assert len(reasons) == 4
    assert "torn.png is not a readable picture" in reasons["edits.json row 2"]
    assert "dot.png is 1x1 pixels" in reasons["edits.json row 5"]
    assert "nowhere.png cannot be read" in reasons["edits.json row 6"]
    assert reasons["edits.json row 7"] == "instruction is missing"
    assert len(reported) == 6  # the last row is not an edit; the caller knows it already
    assert len([bad for bad in reported if bad]) == 3

    again = []
    assert make(tmp_path, rows, models, on_row=again.append) == manifest
    assert sorted(map(str, again)) == sorted(map(str, reported))
    Image.new("RGB", (80, 80)).save(tmp_path / "torn.png")  # repaired
    assert make(tmp_path, rows, models).records == 4


def test_a_full_disk_leaves_only_complete_chunks(tmp_path, rows, models, monkeypatch):
    class FullDisk:
        def __init__(self, *arguments):
            self.open = True

        def write(self, data):
            raise RuntimeError("write() failed: No space left on device")

        def close(self):
            self.open = False

        def is_open(self):
            return self.open

    make(tmp_path, rows[:4], models)
    before = contents(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(shards.array_record, "ArrayRecordWriter", FullDisk)
        with pytest.raises(UserError, match=r"No space left on device.*free space"):
            make(tmp_path, rows, models)
    assert contents(tmp_path / "out") == before
    assert make(tmp_path, rows, models).records == 7


def test_fingerprints_distinguish_models(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    with pytest.raises(UserError, match="does not exist"):
        fingerprint(weights)
    (weights / "a").write_bytes(bytes(3_000_000))
    seen = {fingerprint(weights)}
    for change in (b"x" + bytes(2_999_999), bytes(2_999_999) + b"x", bytes(3_000_001)):
        (weights / "a").write_bytes(change)
        seen.add(fingerprint(weights))
    (weights / "b").touch()
    seen.add(fingerprint(weights))
    assert len(seen) == 5
    assert fingerprint(weights / "a") == fingerprint((weights / "a").rename(tmp_path / "c"))


def test_settings_depend_on_the_models_and_every_field_of_the_encoder(tmp_path):
    model, autoencoder = tmp_path / "model", tmp_path / "vae.safetensors"
    model.mkdir()
    (model / "config.json").write_text("{}")
    autoencoder.write_bytes(b"weights")
    encoder = EncoderConfig(path=str(model), text_length=5)
    settings = make_settings(64, encoder, autoencoder)
    assert settings["encoder"] == fingerprint(model)
    assert settings["autoencoder"] == fingerprint(autoencoder)
    for change in ({"min_pixels": 1}, {"max_pixels": 2}, {"text_length": 6}, {"dtype": "float32"}):
        assert make_settings(64, dataclasses.replace(encoder, **change), autoencoder) != settings
    assert make_settings(80, encoder, autoencoder) != settings
    assert make_settings(64, encoder, autoencoder, 0.5) != settings
    with pytest.raises(UserError, match=r"negatives is 1\.5"):
        make_settings(64, encoder, autoencoder, 1.5)


def test_a_chunk_gets_its_manifest_only_after_its_shards(tmp_path, rows, models):
    """A folder has a shard's name: its renaming fails, as in a crash before the manifest."""
    (shard,) = make(tmp_path, rows[:1], models).shards
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (tmp_path / "out" / shard.file / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match="could not be written"):
        make(tmp_path, rows[:1], models)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [shard.file]


def test_instructions_that_cannot_be_read_are_left_out(tmp_path, rows, models):
    rows[2]["instruction"] = "a <|image_pad|>"
    manifest = make(tmp_path, rows, models)
    assert manifest.records == 6
    assert [(bad.row, bad.reason) for bad in manifest.bad_rows] == [
        ("edits.json row 3", "has a placeholder")
    ]


def test_the_same_fraction_gets_negatives_in_every_run(tmp_path, rows, models):
    settings = SETTINGS | {"negatives": 0.5}
    manifest = make(tmp_path, rows, models, settings)
    (one,) = [listed(tmp_path, rows)]
    wanted = {triplet.id for triplet in one.triplets if draw_uniform(triplet) < 0.5}
    assert 0 < len(wanted) < 7
    records = read_all(tmp_path / "out")
    assert {name for name, record in records.items() if record.negative_text is not None} == wanted
    assert sum(shard.negatives for shard in manifest.shards) == len(wanted)
    draws = [draw_uniform(dataclasses.replace(one.triplets[0], id=str(i))) for i in range(2000)]
    deviation = abs(np.mean(np.array(draws) < 0.25) - 0.25)
    assert deviation < 0.04  # four standard deviations of 2000 draws


def test_several_inputs_with_weights(tmp_path, rows, models):
    first, second = listed(tmp_path, rows[:5], "a.json", 3.0), listed(tmp_path, rows, "b.json", 1.0)
    manifest = run(tmp_path, [first, second], models).manifest
    assert manifest.sources == [SourceInfo("a.json", 3.0), SourceInfo("b.json", 1.0)]
    records = [sum(s.records for s in manifest.shards if s.source == i) for i in (0, 1)]
    assert records == [5, 7]
    texts = len(models.texts)
    first.weight = 1.0  # other weights of the same records: nothing is encoded again
    manifest = run(tmp_path, [first, second], models).manifest
    assert manifest.sources[0].weight == 1.0
    assert len(models.texts) == texts


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_chunks_and_the_last_one_writes_the_manifest(
    tmp_path, rows, models, order
):
    rows[5]["source"] = "nowhere.png"  # in the third chunk
    one, told = listed(tmp_path, rows), []
    for index in order[:2]:
        outcome = run(
            tmp_path, [one], models, chunk_size=2, process_index=index, process_count=3,
            on_row=told.append,
        )  # fmt: skip
        assert outcome.manifest is None
        assert not (tmp_path / "out" / MANIFEST).exists()
        assert len(outcome.bad_rows) == (index == 2)
    last = run(tmp_path, [one], models, chunk_size=2, process_index=order[2], process_count=3)
    assert last.manifest.records == 6
    assert len(last.bad_rows) == 1
    assert last.missing == 0
    texts = len(models.texts)
    again = run(tmp_path, [one], models, chunk_size=2)  # any other number of processes
    assert again.manifest == last.manifest
    assert len(models.texts) == texts


def test_an_error_while_writing_one_record_ends_the_run(tmp_path, rows, models, monkeypatch):
    def torn(self, record, write=shards.ShardWriter.write):
        if record.id == "e0":  # in the first batch
            raise UserError("torn")
        write(self, record)

    monkeypatch.setattr(shards.ShardWriter, "write", torn)
    with pytest.raises(UserError, match="torn"):
        make(tmp_path, rows, models)
    assert not list((tmp_path / "out").iterdir())
