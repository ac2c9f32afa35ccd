"""Batches encoded by models whose outputs identify their inputs; see also test_precompute.py."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.images import open_image, to_array
from step1x_jax.data.batch_encoder import BatchEncoder
from step1x_jax.data.edit_loader import EditLoader
from step1x_jax.data.source_cache import SourceCache
from step1x_jax.data.sources import read_triplets
from tests.data.test_precompute import BATCH, FakeModels, make, read_all


@pytest.fixture
def rows(tmp_path):
    """Edits of 12 pictures, each used twice in a row and once later."""
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{i}.png")
    order = [*(i // 2 for i in range(24)), *range(12)]
    return [
        {"source": f"p{n}.png", "target": f"p{n}.png", "instruction": f"{i}", "id": f"{i}"}
        for i, n in enumerate(order)
    ]


def check(record, picture):
    mean = to_array(open_image(picture)).mean().astype(jnp.bfloat16)
    assert (record.negative_text == mean).all()
    assert (record.text == mean).all()
    np.testing.assert_array_equal(record.source, record.target)


def test_records_do_not_depend_on_the_order_in_which_they_are_made(tmp_path, rows, monkeypatch):
    """All batches are encoded, and their sources evicted, before the last record is made."""
    monkeypatch.setattr(SourceCache, "LIMIT", 4)
    (tmp_path / "edits.json").write_text(json.dumps(rows))
    triplets, _ = read_triplets(tmp_path / "edits.json")
    models = FakeModels()
    loader = EditLoader(models, 64, negatives=1.0, min_kept=0.0)
    edits = [loader.load(triplet).edit for triplet in triplets]
    encoder = BatchEncoder(models.load(), BATCH)
    batches = [encoder.encode(edits[i : i + BATCH]) for i in range(0, len(edits), BATCH)]
    encoded = [edit for batch in batches for edit in batch.edits]
    assert [edit.edit for edit in encoded] == edits
    for edit, row in reversed(list(zip(encoded, rows, strict=True))):
        check(edit.make_record(), tmp_path / row["source"])
    for batch in reversed(batches):
        batch.wait()


def test_more_sources_than_the_cache_holds(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(SourceCache, "LIMIT", 4)
    models = FakeModels()
    make(tmp_path, rows, models, chunk_size=10)
    for name, record in read_all(tmp_path / "out").items():
        check(record, tmp_path / rows[int(name)]["source"])
    # Consecutive edits of a picture share its negative; the later one is computed again.
    assert models.texts.count("") == 24


def test_edits_without_a_negative_do_not_shift_those_of_others(tmp_path, rows):
    (tmp_path / "edits.json").write_text(json.dumps(rows))
    triplets, _ = read_triplets(tmp_path / "edits.json")
    models = FakeModels()
    loader = EditLoader(models, 64, negatives=0.5, min_kept=0.0)
    encoder = BatchEncoder(models.load(), BATCH)
    with_negative = 0
    for i in range(0, len(rows), BATCH):
        edits = [loader.load(triplet).edit for triplet in triplets[i : i + BATCH]]
        for edit in encoder.encode(edits).edits:
            record = edit.make_record()
            assert (record.negative_text is None) == (edit.edit.negative_prompt is None)
            if record.negative_text is not None:
                with_negative += 1
                check(record, edit.edit.triplet.source_path)
    assert 0 < with_negative < len(rows)
