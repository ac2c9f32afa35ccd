"""launch.evaluate generate, with a tiny random model."""

import json
import os

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.editing.editor import Editor
from step1x_jax.errors import UserError
from step1x_jax.evaluation.generate import sample_seed
from step1x_jax.models.autoencoder import Autoencoder
from tests.editing.test_editor import AUTOENCODER, SAMPLING, Words, random_model
from tests.evaluation.toy import toy_rows, toy_samples, write_listed
from tests.launch.evaluate_command import SHARED, evaluate

TASKS = ("ps_human", "text_change")
SAMPLES = toy_samples(1, TASKS)


class Loading:
    """Stands for the class Editor, of which only `load` is called."""

    def __init__(self):
        autoencoder = Autoencoder(AUTOENCODER, rngs=nnx.Rngs(0))
        self.editor = Editor(random_model(), autoencoder, Words(), SAMPLING)
        self.loaded = 0

    def load(self, path, *, say, **options):
        self.loaded += 1
        return self.editor


@pytest.fixture(scope="module")
def command():
    with evaluate("generate", SHARED) as (call, module):
        module.Editor = loading = Loading()

        def generate(dataset, results, *arguments):
            return call(
                f"--dataset={dataset}", f"--results={results}", "--method=mine",
                "--model=quickstart", "--size=64", "--steps=2", *arguments,
            )  # fmt: skip

        yield generate, loading


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_listed(tmp_path_factory.mktemp("data") / "toy", toy_rows(1, TASKS))


def pictures(results):
    return {
        str(path.relative_to(results / "mine/fullset")): np.asarray(Image.open(path))
        for path in (results / "mine/fullset").rglob("*.png")
    }


@pytest.fixture(scope="module")
def made(command, dataset, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    assert command[0](dataset, results, "--seed=7") == 0
    return results


@pytest.mark.slow
def test_pictures_are_the_editor_s_with_seeds_of_samples(command, made):
    found = pictures(made)
    sampling = json.loads((made / "mine/run.json").read_text())["sampling"]
    del sampling["shift"]  # the model's
    sampling["guidance_scale"] = sampling.pop("guidance")  # stored under its old name
    assert set(found) == {f"{'/'.join(sample.id)}.png" for sample in SAMPLES}
    for sample in SAMPLES:
        (expected,) = command[1].editor.edit(
            sample.pictures["input_image"](), sample.instruction,
            seed=sample_seed(7, sample.id), **sampling,
        )  # fmt: skip
        assert np.array_equal(found[f"{'/'.join(sample.id)}.png"], np.asarray(expected))


def test_all_that_counts_is_noted(made):
    noted = json.loads((made / "mine/run.json").read_text())
    assert (noted["seed"], noted["source"], noted["benchmark"]) == (7, "input_image", "gedit")
    assert noted["sampling"]["steps"] == 2
    assert noted["sampling"]["size"] == 64
    assert len(noted["weights"]["model"]) == 33
    assert noted["notes"]["paths"]["model"] == "quickstart"
    assert {"dtype", "quantize", "ema", "encoder", "output_size"} <= set(noted)


def test_it_goes_on_and_hosts_share(command, dataset, made, tmp_path, capsys):
    generate, _ = command
    for host in range(2):
        assert generate(dataset, tmp_path, "--seed=7", f"--shard={host}/2") == 0
    assert "2 made, 0 there before, 0 failed" in capsys.readouterr().out
    found, expected = pictures(tmp_path), pictures(made)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    first = sorted((tmp_path / "mine/fullset").rglob("*.png"))[0]
    os.unlink(first)
    assert generate(dataset, tmp_path, "--seed=7") == 0
    assert "1 made, 3 there before, 0 failed" in capsys.readouterr().out
    assert np.array_equal(pictures(tmp_path)[str(first.relative_to(tmp_path / "mine/fullset"))],
                          expected[str(first.relative_to(tmp_path / "mine/fullset"))])  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--seed=8", "seed=7, now it is 8"),
        ("--steps=3", r"sampling\.steps=2, now it is 3"),
        ("--guidance_scale=2", r"sampling\.guidance="),
        ("--source=input_image_raw", "source='input_image', now it is 'input_image_raw'"),
        ("--quantize=int8", "quantize=None, now it is 'int8'"),
    ],
)
def test_other_settings_are_refused_before_anything_is_loaded(command, dataset, made, flag, word):
    generate, loading = command
    before = loading.loaded
    with pytest.raises(UserError, match=word):
        generate(dataset, made, "--seed=7", flag)
    assert loading.loaded == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--shard=2/2"], "counted from 0 to 1"),
        (["--shard=1"], "give a share and how many there are"),
        (["--source=raw"], "is none of gedit"),
        (["--tasks=humans"], "has no humans"),
        (["--method=../x"], "the method's name"),
        (["--dataset=/nowhere"], "does not exist"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_loaded(command, dataset, tmp_path, flags, word):
    generate, loading = command
    before = loading.loaded
    with pytest.raises(UserError, match=word):
        generate(dataset, tmp_path, *flags)
    assert loading.loaded == before
    assert not (tmp_path / "mine").exists()


def test_failures_have_an_exit_code_of_their_own(command, tmp_path, capsys):
    rows = toy_rows(1, TASKS)
    rows[1]["input_image"]["bytes"] = b"no picture"
    folder = write_listed(tmp_path / "toy", rows)
    assert command[0](folder, tmp_path, "--limit=3") == 3
    printed = capsys.readouterr()
    assert "2 made, 0 there before, 1 failed" in printed.out
    assert f"ps_human/cn/{rows[1]['key']} was not made" in printed.err
    (line,) = (tmp_path / "mine/failures.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == rows[1]["key"]
