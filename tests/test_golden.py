"""The published numbers, and that the harness notices wrong ones."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from tests import golden
from tests.golden import VECTORS

PATHS = sorted(p for p in VECTORS.iterdir() if p.suffix == ".json" or (p / "config.json").exists())


@functools.cache
def rows_of(path):
    with jax.default_matmul_precision("highest"):
        return list(golden.check(path))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_published_numbers(path):
    assert rows_of(path)
    assert not [row for row in rows_of(path) if not row.ok]


def test_every_quantity_of_a_case_is_compared():
    compared = {row.name for row in rows_of(VECTORS / "dit_v1_1")}
    inputs = {"latents", "ref_latents", "text_embeddings", "text_mask", "timesteps", "train_x0"}
    inputs |= {"train_noise", "sample_noise", "sample_ref", "sample_embeddings", "sample_mask"}
    assert set(golden.read_case(VECTORS / "dit_v1_1")) - inputs <= compared


@pytest.mark.slow
def test_a_wrong_number_fails(tmp_path, capsys):
    folder = tmp_path / "vae"
    shutil.copytree(VECTORS / "vae", folder)
    case = golden.read_case(folder)
    case["logvar"].flat[3] += 1e-3
    np.savez(folder / "case.npz", **case)
    assert golden.main([str(folder)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows if "vae" in row] == ["ok", "FAIL", "ok", "ok"]
    assert rows[-1].endswith("FAIL")


def test_a_nan_fails():
    assert not golden.outputs("x", np.array([np.nan]), np.array([1.0])).ok


def test_a_wrong_shape_fails():
    assert not golden.outputs("x", np.zeros(3), np.zeros(4)).ok


def test_unknown_kinds_and_missing_paths_are_errors(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "melody"}))
    (tmp_path / "table.json").write_text("[]")
    for path, words in (
        (tmp_path, "unknown kind 'melody'"),
        (tmp_path / "table.json", "unknown kind"),
        (tmp_path / "absent", "does not exist"),
    ):
        assert golden.main([str(path)]) == 2
        assert words in capsys.readouterr().err


def test_wrong_scores_of_pairs_fail(tmp_path, capsys):
    values = json.loads((VECTORS / "gedit2_pairwise.json").read_text())
    expected = values["expected"]
    expected["balanced"]["overall"]["elo"]["birch"] += 0.02
    expected["position"]["visual_quality"]["ties"] += 1
    expected["bootstrap"]["offsets_95_overall_balanced"]["cedar"][1] += 11
    path = tmp_path / "other.json"
    path.write_text(json.dumps(values))
    assert golden.main([str(path)]) == 1
    rows = capsys.readouterr().out.splitlines()
    failed = [row for row in rows[:-1] if row.endswith("FAIL")]
    assert [row.split(": ")[1].rsplit(maxsplit=3)[0] for row in failed] == [
        "balanced overall elo birch",
        "position visual_quality ties",
        "bootstrap offsets cedar",
    ]
