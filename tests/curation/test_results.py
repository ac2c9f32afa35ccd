"""Figures, sheets, reviews and exports of a small run."""

import collections
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from step1x_jax.conditioning.picture_row import MARGIN
from step1x_jax.curation import figures, sheet, stats
from step1x_jax.curation.config import ExportConfig
from step1x_jax.curation.engine.workdir import Workdir
from step1x_jax.curation.export import export
from step1x_jax.curation.results import EDIT, Results
from step1x_jax.curation.review import Review, write_page
from step1x_jax.curation.sources.photograph_rows import COLUMNS
from step1x_jax.data.sources import read_triplets
from step1x_jax.errors import UserError
from tests.curation.tiny_edits import SIZE, as_pixels, tiny_config
from tests.curation.toys import drive

pytestmark = pytest.mark.parquet


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Pipeline, folder and results of a run."""
    folder = tmp_path_factory.mktemp("run")
    pipeline = tiny_config(max_error_rate=0.2).pipeline()
    drive(pipeline, folder)
    return pipeline, Workdir(folder), Results(pipeline, Workdir(folder))


def test_stats(done):
    pipeline, workdir, _ = done
    counted = stats.count(pipeline, workdir)
    assert json.loads(json.dumps(counted)) == counted
    assert len(counted["categories"]) == 11
    funnel = {"edit": 8, "words": 8, "review": 8}
    assert counted["categories"]["tone_transfer"] == {
        "accepted": 8, "sources": 4, "rejected": {}, "left": funnel
    }  # fmt: skip
    assert counted["categories"]["ps_human"] == {
        "accepted": 0, "sources": 0, "rejected": {"no_face": 8}, "left": dict.fromkeys(funnel, 0)
    }  # fmt: skip
    assert counted["categories"]["text_change"]["rejected"] == {}
    assert counted["uncategorised"] == {"unreadable_picture": 1}
    assert counted["retention"]["made"] == 24
    assert counted["retention"]["made_per_accepted"] == 1.5
    assert [(s["name"], s["parts"], s["rows"]) for s in counted["stages"]] == [
        ("source", 9, 9), ("edit", 9, 8), ("words", 9, 16), ("review", 9, 16)
    ]  # fmt: skip
    text = "\n".join(stats.table(counted))
    assert re.search(r"ps_human +8 +0 +0  no_face 8\n", text)
    assert re.search(r"24 made, 16 accepted: 1.5:1; the paper's is 20:1", text)
    assert re.search(r"OmniEdit +1200000 +7  arXiv 2411.07199", text)


@pytest.mark.curation
def test_figures(done, tmp_path):
    pipeline, workdir, _ = done
    figures.draw_all(stats.count(pipeline, workdir), tmp_path / "figures")
    for name in ("categories.png", "public_sets.png"):
        pixels = np.asarray(Image.open(tmp_path / "figures" / name).convert("L"))
        assert (pixels < 128).mean() > 0.005  # something is drawn


def test_a_run_that_is_not_done(tmp_path):
    pipeline = tiny_config().pipeline()
    with pytest.raises(UserError, match="9 of 9 parts of the stage source are not there"):
        stats.count(pipeline, Workdir(tmp_path))


def test_columns_that_nobody_writes(done):
    pipeline, workdir, _ = done
    only = dataclasses.replace(pipeline, stages={"edit": pipeline.stages["edit"]})
    with pytest.raises(UserError, match="writes instruction_en, instruction_cn"):
        list(Results(only, workdir).accepted(EDIT))


def test_sheet(done):
    _, _, results = done
    chosen = sheet.examples(results, 2)
    assert [row["category"] for row, _, _ in chosen] == ["tone_transfer"] * 2 + ["color_alter"] * 2
    picture = sheet.draw(chosen)
    wide, high = chosen[0][1].size
    assert high == sheet.HEIGHT
    assert picture.width > 4 * wide
    assert picture.height > 2 * high
    margin = round(MARGIN * wide)
    corner = np.asarray(picture)[margin : margin + high, margin : margin + wide]  # a source
    assert np.array_equal(corner, np.asarray(chosen[0][1]))
    page = sheet.page(chosen, "x")
    assert page.count("data:image/jpeg;base64,") == 8
    assert "make it &lt;b&gt;brighter&lt;/b&gt;" in page
    assert "让画面更亮" in page


def test_review_page(done, tmp_path):
    """What it is told; what it does with that is tested in a browser."""
    _, _, results = done
    assert write_page(results.accepted(EDIT), tmp_path / "page") == 16
    page = (tmp_path / "page/index.html").read_text()
    assert "<b>brighter" not in page
    told = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    accepted = {row["id"]: row for row in results.accepted(EDIT)}
    assert [edit["id"] for edit in told["edits"]] == list(accepted)
    for edit in told["edits"]:
        row = accepted[edit["id"]]
        assert (edit["en"], edit["cn"]) == (row["instruction_en"], row["instruction_cn"])
        for name in ("source", "target"):
            picture = Image.open(tmp_path / f"page/pictures/{edit['picture']}-{name}.jpg")
            assert picture.size == SIZE
    with pytest.raises(UserError, match="exists; remove it"):
        write_page([], tmp_path / "page")


def test_verdicts_are_a_filter(done, tmp_path):
    pipeline, _, results = done
    ids = [row["id"] for row in results.accepted({"category": str})]
    verdicts = tmp_path / "verdicts.jsonl"
    lines = [
        {"id": ids[0], "verdict": "keep", "reason": ""},
        {"id": ids[1], "verdict": "reject", "reason": "artefacts"},
        {"id": ids[0], "verdict": "reject", "reason": ""},
        {"id": "of another run", "verdict": "keep"},
        {"id": ids[2], "verdict": "keep"},
    ]
    verdicts.write_text("\n".join(map(json.dumps, lines)))

    def reasons(stage):
        stages = {**pipeline.stages, "review": stage}
        changed = dataclasses.replace(pipeline, stages=stages)
        drive(changed, tmp_path / "run")
        rows = Results(changed, Workdir(tmp_path / "run")).all({"category": str})
        return collections.Counter(row["reason"] for row in rows if row["stage"] == "review")

    assert reasons(Review()) == {}
    assert reasons(Review(str(verdicts))) == {"reviewer_artefacts": 1, "reviewer_rejected": 1}
    assert reasons(Review(str(verdicts), ("tone_transfer",)))["not_reviewed"] == 6
    verdicts.write_text("")  # by its content, not by its name
    assert reasons(Review(str(verdicts))) == {}


def test_export(done, tmp_path):
    _, _, results = done
    config = ExportConfig(held_out=0.25)
    folder = tmp_path / "export"
    done_export = export(results, folder, config, 0, "m")
    assert done_export.edits == {"train": 12, "held_out": 4, "between": 0}
    lists = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "held_out")
    }
    groups = {name: {g for row in rows for g in row["groups"]} for name, rows in lists.items()}
    assert not groups["train"] & groups["held_out"]
    assert len(groups["train"] | groups["held_out"]) == 4
    rows = {row["id"]: row for rows in lists.values() for row in rows}
    assert len(rows) == 32
    accepted = {row["id"]: row for row in results.accepted({**EDIT, **COLUMNS, "mask": bytes})}
    for id, row in rows.items():
        before = accepted[id.rpartition("-")[0]]
        language = row["language"]
        assert row["instruction"] == before[f"instruction_{language}"]
        assert row["task"] == before["category"]
        for name in ("source", "target", "mask"):
            assert (folder / row[name]).read_bytes() == before[name]
        assert row["licences"] == ["CC0"]
        assert row["urls"] == [before["url"]]
        assert row["photograph_sha256"] == before["sha256"]
        assert (len(row.get("references", ())) == 1) == (row["task"] == "color_alter")
        assert row["instruction_by"] == "template"
    (folder / next(iter(rows.values()))["target"]).read_bytes()
    triplets, bad = read_triplets(folder / "train.jsonl")
    assert (len(triplets), bad) == (24, [])
    target = pathlib.Path(triplets[0].target_path).read_bytes()
    assert as_pixels(target).shape == (32, 48, 3)
    pictures = [path.read_bytes() for path in (folder / "pictures").iterdir()]
    assert len(pictures) == len(set(pictures))  # each once


def test_an_export_that_is_there(done, tmp_path):
    _, _, results = done
    first = export(results, tmp_path / "x", ExportConfig(), 0, "m")
    assert export(results, tmp_path / "x", ExportConfig(), 0, "m") == first
    for changed in ((ExportConfig(held_out=0), 0, "m"), (ExportConfig(), 0, "other")):
        with pytest.raises(UserError, match="was not exported from this run as it is now"):
            export(results, tmp_path / "x", *changed)
