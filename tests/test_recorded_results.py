"""Recorded results say what made them, and pages repeat them as the files have them."""

import datetime
import json
import re
import shlex
import shutil

import jax
import pytest

from tests import record_result, recorded_results, result_tables
from tests.recorded_results import PAGES, ROOT, write_docstring, write_markdown
from tests.result_tables import FOLDER, RESULTS
from tests.test_documents import mistakes

FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_repeat_what_is_recorded(page):
    same = recorded_results.write(page) == page.read_text()
    assert same, "run python -m tests.recorded_results, and look at what it changes"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_result_says_what_made_it(file):
    result = json.loads(file.read_text())
    assert tuple(result)[:4] == record_result.FIELDS
    assert file.read_text() == record_result.as_text(result)
    assert re.fullmatch(r"python -m launch\.\w+ .+", result["command"])
    assert [*mistakes(shlex.split(result["command"]))] == []  # today's code knows it
    assert re.fullmatch(r"[0-9a-f]{7}", result["commit"])
    assert re.fullmatch(r"\d+(\.\d+)+", result["versions"]["jax"])
    assert datetime.date.fromisoformat(result["date"])


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.stem.startswith("plan_")], ids=lambda file: file.stem
)
def test_a_command_is_that_of_its_plan(file):
    plan = json.loads(file.read_text())
    words = [word[2:] for word in shlex.split(plan["command"]) if word.startswith("--")]
    flags = {name: value for name, _, value in (word.partition("=") for word in words)}
    assert flags.get("size", "1024") == str(plan["size"])
    assert flags.get("quantize") == plan.get("quantize")
    if "gpu" in plan:
        return
    assert flags["topology"] == plan["topology"]
    assert flags.get("program", "train") == plan["program"]
    if plan["program"] == "train":  # the batch is split over these two axes
        parts = plan["mesh"]["data"] * plan["mesh"]["fsdp"]
        assert int(flags.get("examples", "1")) * parts == plan["examples"]
    else:
        given = dict(axis.split("=") for axis in flags["mesh"].split(","))
        assert {axis: int(given.get(axis, 1)) for axis in plan["mesh"]} == plan["mesh"]


def test_every_result_is_on_a_page(tmp_path, monkeypatch):
    """Without it, some page would be another one, or could not be written."""
    folder = shutil.copytree(FOLDER, tmp_path / "results")
    monkeypatch.setattr(result_tables, "FOLDER", folder)
    for file in sorted(folder.iterdir()):
        text = file.read_text()
        file.unlink()
        try:
            shown = any(recorded_results.write(page) != page.read_text() for page in PAGES)
        except LookupError:
            shown = True
        assert shown, file.name
        file.write_text(text)


PLAN = {
    "command": "python -m launch.compile_ahead --config=configs/lora.py --topology=v6e:2x2",
    "commit": "1234567",
    "versions": {"jax": "0.10.2", "libtpu": "0.0.42"},
    "topology": "v6e:2x2",
    "chips": 4,
    "mesh": {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 1},
    "program": "train",
    "size": 512,
    "remat": "attention_qkv_mlp",
    "examples": 12,
    "hbm_per_chip_gib": 7.25001,
    "hbm_available_gib": 31.25,
    "estimated_step_seconds": 1.276,
    "estimated_mfu": 0.425,
    "images_per_second_per_chip": 2.351,
}
OTHER = {
    "commit": "abcdef0",
    "topology": "v5p:1x1x2",
    "chips": 2,
    "mesh": {"data": 1, "fsdp": 2, "sequence": 1, "tensor": 1},
    "examples": 2,
    "remat": "full",
    "hbm_available_gib": 95.74,
}
EDIT = {
    "program": "sample",
    "topology": "v5e:1x1",
    "chips": 1,
    "mesh": {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1},
    "size": 1024,
    "quantize": None,
    "weights_gib": {"transformer": 12.06, "language_model": 3.0, "autoencoder": 0.31},
    "programs": {"read": {"working_gib": 0.44}, "sample": {"working_gib": 1.0}},
    "peak_gib": {"resident": 16.9, "offloaded": 15.78},
    "fits": {"resident": False, "offloaded": False},
    "hbm_available_gib": 15.75,
    "estimated_step_seconds": 0.0996,
    "estimated_edit_seconds": 2.96,
    "estimated_mfu": 0.5,
}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Three results with numbers that are easily rounded by hand."""
    monkeypatch.setattr(result_tables, "FOLDER", tmp_path)
    quantized = {"quantize": "int8", "fits": {"resident": False, "offloaded": True}}
    toys = {"a": PLAN, "b": PLAN | OTHER, "edit": EDIT, "edit_int8": EDIT | quantized}
    for name, toy in toys.items():
        (tmp_path / f"plan_{name}.json").write_text(json.dumps(toy))


def test_tables(toys):
    assert RESULTS["training"]("lora", "512") == (
        "| topology | mesh | saved | GiB a chip, of | step, s | MFU | images/s and chip |\n"
        "|---|---|---|---|---|---|---|\n"
        "| v5p:1x1x2 | fsdp=2 | nothing | 7.3, 95.74 | 1.28 | 42 % | 2.35 |\n"
        "| v6e:2x2 | data=2,fsdp=2 | attention, qkv, MLP | 7.3, 31.25 | 1.28 | 42 % | 2.35 |"
    )
    assert RESULTS["slices"]("lora", "512").splitlines()[2:] == [
        "| v5p:1x1x2 (2 chips) | 2 | 35 | 7.3, 95.74 |",  # 127600 s
        "| v6e:2x2 (4 chips) | 12 | 35 | 7.3, 31.25 |",
    ]
    assert RESULTS["hours"]("lora", "512") == (
        "slice       edits a chip   hours\n"
        "v5p:1x1x2   1              35\n"
        "v6e:2x2     3              35"
    )
    assert RESULTS["training_of_several"]("lora", "512").splitlines()[2:] == [
        "| LoRA, 512 px | v5p:1x1x2 | 1 | nothing | 7.3, 95.74 | 1.28 | 42 % | 2.35 |",
        "|  | v6e:2x2 | 3 | attention, qkv, MLP | 7.3, 31.25 | 1.28 | 42 % | 2.35 |",
    ]
    assert RESULTS["edits_on_tpus"]().splitlines()[2:] == [
        "| v5e:1x1 | one chip | 1024 px |  | 12.1 + 3.0 + 0.3 | 0.4, 1.0, less | 16.9, too much"
        " | 15.8, too much | 15.75 | 100 | 3.0 | 50 % |",
        "|  |  | 1024 px | int8 | 12.1 + 3.0 + 0.3 | 0.4, 1.0, less | 16.9, too much"
        " | 15.8 | 15.75 | 100 | 3.0 | 50 % |",
    ]
    with pytest.raises(LookupError, match="no plan of launch/benchmarks is of lora at 1024 px"):
        RESULTS["training"]("lora", "1024")


def test_figures(toys):
    assert RESULTS["gib"]("plan_edit", "weights_gib.transformer") == "12.1"
    assert RESULTS["minutes"]("plan_edit", "estimated_edit_seconds") == "0.049"
    assert RESULTS["missing_gib"]("plan_edit") == "0.03"
    assert RESULTS["origin"]("plan_a") == "jax 0.10.2 with libtpu 0.0.42, commit 1234567"
    assert RESULTS["origin"]("plan_a", "plan_b").endswith(", commits 1234567 and abcdef0")
    with pytest.raises(LookupError, match=r"no file of launch/benchmarks is plan_c.json"):
        RESULTS["origin"]("plan_c")


def test_only_what_is_marked_is_written(toys):
    page = "1.0\n\n<!-- hours lora 512 -->\nold\n<!-- end -->\n"
    page += "of <!-- gib plan_a size -->?<!-- end --> 2.0\n"
    hours = RESULTS["hours"]("lora", "512")
    expected = page.replace("old", hours).replace("?", "512.0")
    assert write_markdown(page) == write_markdown(expected) == expected
    config = '"""1.0\n\n    # a list\n    # hours lora 512\n{}    # end\n"""\nx = 1  # of it\n'
    indented = "".join(f"    {line}\n" for line in hours.splitlines())
    for old in ("", "    old\n\n", indented):
        assert write_docstring(config.format(old)) == config.format(indented)


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("a <!-- gib plan_a size -->1.0\n", "not closed"),
        ("a <!-- gib plan_a size -->1.0 <!-- gib plan_a size -->1.0<!-- end -->\n", "not closed"),
        ("a 1.0<!-- end -->\n", "not closed"),
        ("a\n<!-- gib plan_a size -->1.0<!-- end --> b\n", "starts a line"),
        ("a <!-- pounds plan_a size -->1.0<!-- end -->\n", "no pounds"),
        ("a <!-- gib plan_c size -->1.0<!-- end -->\n", "is plan_c.json"),
    ],
)
def test_marks_that_are_wrong(toys, page, why):
    with pytest.raises(LookupError, match=why):
        write_markdown(page)


def test_an_end_alone(toys):
    with pytest.raises(LookupError, match="not opened"):
        write_docstring('"""All.\n\n    # hours lora 512\n\n    # another\n    1\n\n# end\n"""\n')


def test_a_result_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(record_result, "FOLDER", tmp_path)
    answers = {"status": "", "rev-parse": "1234567"}
    monkeypatch.setattr(record_result, "git", lambda word, *_: answers[word])
    record_result.record("new", ["python", "-c", "print('{\"seconds\": 1.5}')"])
    text = (tmp_path / "new.json").read_text()
    result = json.loads(text)
    assert text == record_result.as_text(result)
    assert tuple(result) == (*record_result.FIELDS, "seconds")
    assert shlex.split(result["command"]) == ["python", "-c", "print('{\"seconds\": 1.5}')"]
    assert (result["commit"], result["seconds"]) == ("1234567", 1.5)
    assert result["versions"]["jax"].startswith(jax.__version__)  # of 0.12.0.1 it says 0.12.0
    answers["status"] = " M step1x_jax/errors.py"
    with pytest.raises(SystemExit, match="Commit first"):
        record_result.record("other", ["python", "-c", "pass"])
    assert len([*tmp_path.iterdir()]) == 1
