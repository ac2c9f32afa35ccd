"""The quickstart's data set: its config, from crops to lists."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from configs.curate_quickstart import get_config
from step1x_jax.curation.embedded.plain_texts import PLAIN_TEMPLATES
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.export import export
from step1x_jax.curation.results import Results
from step1x_jax.errors import UserError
from step1x_jax.overrides import override
from step1x_jax.quickstart.held_out import read_held_out
from tests.curation.tiny_edits import as_pixels
from tests.curation.toys import drive

pytestmark = [pytest.mark.quickstart]


def small_config():
    config = override(get_config(), {"source.count": 10, "source.rows": 7, "source.apart_count": 5})
    config.validate()
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    config = small_config()
    manifest = drive(config.pipeline(), folder / "run")
    results = Results(config.pipeline(), Workdir(folder / "run"))
    export(results, folder / "lists", config.export, config.seed, "m")
    return folder, config, manifest, results


def lines(folder, name):
    return [
        json.loads(line) for line in (folder / "lists" / f"{name}.jsonl").read_text().splitlines()
    ]


def test_targets_are_the_edited_sources(run):
    from step1x_jax.curation.embedded.plain import PLAIN

    folder, *_ = run
    rows = lines(folder, "train")
    shapes = collections.Counter()
    for row in rows:
        name = row["method"].removeprefix("plain/")
        source, target, mask = (
            as_pixels((folder / "lists" / row[column]).read_bytes())
            for column in ("source", "target", "mask")
        )
        shapes[source.shape[:2]] += 1
        np.testing.assert_array_equal(target, PLAIN[name].apply(source))
        np.testing.assert_array_equal(source[mask == 0], target[mask == 0])
        assert (mask == 0).any() == PLAIN[name].local
        assert row["task"] == PLAIN[name].category
        wordings = PLAIN_TEMPLATES[PLAIN[name].category, name]
        assert row["instruction"] in wordings[row["language"]]
    assert set(shapes) == {(128, 128), (96, 144), (144, 96)}
    assert shapes[128, 128] < min(shapes[96, 144], shapes[144, 96])


def test_no_photograph_is_on_both_sides(run):
    folder, config, *_ = run
    held_out = {group for row in lines(folder, "held_out") for group in row["groups"]}
    assert held_out == set(config.source.apart) == {"chelsea", "china"}
    train = {group for row in lines(folder, "train") for group in row["groups"]}
    assert not train & held_out
    assert len(train) >= 3


def test_held_out_edits_are_read_in_one_language_each(run):
    folder, *_ = run
    edits = read_held_out(folder / "lists")
    assert len(edits) == len({(edit.crop, edit.kind) for edit in edits})
    assert len({edit.crop for edit in edits}) == 10
    assert len(edits) > 0.9 * 10 * len(PLAIN_TEMPLATES)
    for kind in ("night", "caption"):
        languages = collections.Counter(edit.language for edit in edits if edit.kind == kind)
        assert abs(languages["en"] - languages["cn"]) <= 2
    for row in lines(folder, "held_out")[:40]:
        (edit,) = [e for e in edits if e.source.endswith(row["source"]) and e.kind in row["method"]]
        assert edit.language != row["language"] or edit.instruction == row["instruction"]


def test_same_seed_same_manifest(run, tmp_path):
    _, config, manifest, _ = run
    assert drive(config.pipeline(), tmp_path / "again") == manifest
    config = dataclasses.replace(config, seed=1)
    assert drive(config.pipeline(), tmp_path / "other") != manifest


def test_a_group_that_is_not_there_cannot_be_held_out(run, tmp_path):
    _, config, _, results = run
    wrong = dataclasses.replace(config.export, held_out_groups=("chelsea", "my_dog"))
    with pytest.raises(UserError, match="no edits of my_dog"):
        export(results, tmp_path / "lists", wrong, config.seed, "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"), [("count", 0), ("size", 8), ("apart", ("my_dog",)), ("apart_count", -1)]
)
def test_settings_that_cannot_be(field, value):
    config = override(small_config(), {f"source.{field}": value})
    with pytest.raises(UserError, match=field):
        config.validate()
