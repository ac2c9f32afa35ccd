"""The embedded edits as stages, and the config that has them all."""

import collections
import dataclasses

import pytest

from configs.curate_embedded import get_config
from step1x_jax.curation.categories import Category
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.results import EDIT, MORE, Results
from step1x_jax.overrides import override
from tests.curation.tiny_edits import as_pixels
from tests.curation.toys import drive

pytestmark = [pytest.mark.parquet, pytest.mark.curation]


def quick_config():
    """The embedded config with two quick categories, one of which needs other photographs."""
    config = get_config()
    config.stages["edit"].count = 1
    config.stages["edit"].categories = ("tone_transfer", "background_change")
    config.validate()
    return config


@pytest.mark.slow
def test_edits_are_what_they_say(tmp_path):
    config = quick_config()
    first = drive(config.pipeline(), tmp_path / "a")
    results = Results(config.pipeline(), Workdir(tmp_path / "a"))
    rows = list(results.accepted({**EDIT, **MORE, "facts": dict}))
    kinds = collections.Counter(row["category"] for row in rows)
    assert set(kinds) == {"tone_transfer", "background_change"}
    assert min(kinds.values()) >= 10
    for row in rows:
        source, target, mask = (as_pixels(row[name]) for name in ("source", "target", "mask"))
        assert source.shape == target.shape
        assert (source[mask == 0] == target[mask == 0]).all()
        assert row["groups"][0] == row["group"]
        assert row["groups"] == list(dict.fromkeys(row["groups"]))
        assert all(row["licences"])
        assert all(url.startswith("https://") for url in row["urls"])
        assert row["instruction_by"] == "template"
        assert row["method"].startswith("embedded/")
    assert any(len(row["groups"]) > 1 for row in rows)  # a background is another photograph
    shapes = {as_pixels(row["source"]).shape[:2] for row in rows}
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)
    assert first == drive(config.pipeline(), tmp_path / "b")


@pytest.mark.slow
def test_an_edit_does_not_depend_on_the_other_categories(tmp_path):
    made = []
    for categories in (("tone_transfer", "color_alter"), ("color_alter",)):
        config = quick_config()
        edit = dataclasses.replace(config.stages["edit"], categories=categories)
        config = override(config, {"stages": {"edit": edit}})
        drive(config.pipeline(), tmp_path / str(len(categories)))
        results = Results(config.pipeline(), Workdir(tmp_path / str(len(categories))))
        rows = results.accepted({"category": str, "target": bytes})
        made.append([row["target"] for row in rows if row["category"] == "color_alter"])
    assert made[0] == made[1]
    assert len(made[0]) > 10


def test_every_category_has_a_method():
    from step1x_jax.curation.embedded.methods import METHODS

    assert list(METHODS) == sorted(METHODS, key=list(Category).index)
    edits = get_config().stages["edit"]
    assert edits.categories == tuple(map(str, METHODS))
    fewer = dataclasses.replace(edits, categories=("ps_human",))
    assert fewer.fingerprint() != edits.fingerprint()
