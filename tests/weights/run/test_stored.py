"""Checkpoints written by earlier versions (stored/README.md), read by the current one.

The numbers to compare with were written beside them by the same code, in files of other kinds.
"""

import json
import re
import shutil
import tarfile
import zlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.training.loop import train
from step1x_jax.weights.lora.adapters import abstract_adapters
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.run.description import DESCRIPTION, SCHEMA_VERSION
from step1x_jax.weights.run.earlier import abstract_earlier
from step1x_jax.weights.run.reader import RunFolder
from step1x_jax.weights.run.stored_arrays import open_array
from tests.weights.run.make_stored import (
    STEPS,
    STOPPED,
    STORED,
    arithmetic,
    arrays_of,
    batches,
    lora_config,
    named,
    run_config,
)

NAMES = sorted(path.name.removesuffix(".tar.xz") for path in STORED.glob("*.tar.xz"))
NEWEST = f"schema_{SCHEMA_VERSION}"
FIRST = "schema_2_first"  # before adapters and folders of weights alone
WITH_ADAPTERS = [name for name in NAMES if name != FIRST]


def read(workdir, *, ema=False):
    """Returns a run's parameters by name, as they are stored."""
    run = RunFolder(workdir, ema=ema)
    return named(run.restore(abstract_model(run.model)[1]))


def read_adapters(workdir):
    """Returns the same for adapters."""
    run = RunFolder(workdir)
    return named(run.restore(abstract_adapters(run.model, run.lora)))


def official(workdir, **options):
    """Returns the official tensors of a run's model, as launch.convert reads them."""
    tensors = open_weights(workdir, **options).tensors
    return {name: tensors.read(name) for name in tensors.shapes}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with one checkpoint of each name; tests may write to it."""
    folder = tmp_path_factory.mktemp("stored")
    for name in NAMES:
        with tarfile.open(STORED / f"{name}.tar.xz") as archive:
            archive.extractall(folder / name, filter="data")
    return folder


def today(arrays, name):
    """Returns arrays of an earlier schema with current names and shapes."""
    if int(name.split("_")[1]) > 3:
        return arrays
    result = {}
    for path, x in arrays.items():
        if "qkv.lora_down" in path:
            result[path.replace("qkv.lora_down", "k.adapter.down")] = x
        elif "qkv.lora_up" in path:  # (layers, rank, 3, heads, width)
            for i, letter in enumerate("qkv"):
                name = path.replace("qkv.lora_up", f"{letter}.adapter.up")
                result[name] = x[:, :, i].reshape(*x.shape[:2], -1)
        elif "qkv" in path:  # (layers, 3, ..., heads, width)
            for i, letter in enumerate("qkv"):
                third = x[:, i]
                result[path.replace("qkv", letter)] = third.reshape(*third.shape[:-2], -1)
        else:
            if "proj.kernel" in path or "proj.lora_down" in path:  # (layers, heads, width, other)
                x = x.reshape(len(x), -1, x.shape[-1])
            elif re.search(
                r"(mod|odulation)\.(kernel|bias|lora_up)", path
            ):  # (..., vectors, width)
                x = x.reshape(*x.shape[:-2], -1)
            result[path.replace("lora_", "adapter.")] = x
    return result


def arrays_then(file, name):
    """Reads what the earlier code wrote beside its checkpoint."""
    return today(dict(np.load(file)), name)


def part(arrays, item):
    return {n.removeprefix(item): x for n, x in arrays.items() if n.startswith(item)}


def assert_same(found, wanted):
    """Bit for bit."""
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].tobytes() == x.tobytes(), name


def going_on(folder, name, config, monkeypatch):
    """Returns all arrays with which a run resumes, by resuming with no step left."""
    monkeypatch.chdir(folder)  # training.start_from of the adapters is "run"
    config = override(config, {"training.steps": STOPPED})
    state = train(config, name, batches)
    assert int(state.step) == STOPPED
    return arrays_of(state)


def test_every_schema_that_is_read_is_here():
    """Before SCHEMA_VERSION is raised, one more is made: stored/README.md."""
    assert {FIRST, "schema_2", "schema_3", "schema_4", NEWEST} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_moving_average(unpacked, name):
    wanted = arrays_then(unpacked / name / "run.npz", name)
    for item, ema in (("params.", False), ("ema.", True)):
        assert_same(read(unpacked / name / "run", ema=ema), part(wanted, item))


@pytest.mark.parametrize("name", NAMES)
def test_official_tensors(unpacked, name):
    found = official(unpacked / name / "run")
    assert_same(found, load_file(unpacked / name / "run.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_with_all_that_it_had(unpacked, monkeypatch, capsys, name):
    found = going_on(unpacked / name, "run", run_config(), monkeypatch)
    assert_same(found, arrays_then("run.npz", name))
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_another_model_of_as_many_numbers_is_refused(unpacked, name):
    """No axis may be split at another position: numbers would silently be exchanged."""
    abstract = abstract_model(run_config().model)[1]
    kernel = abstract["transformer"]["img_in"]["kernel"]
    wider = jax.ShapeDtypeStruct((32, 12), kernel.dtype)  # not (64, 6)
    abstract["transformer"]["img_in"]["kernel"] = kernel.replace(wider)
    with pytest.raises(UserError, match=r"img_in\.kernel is float32\[64, 6\] there"):
        RunFolder(unpacked / name / "run").restore(abstract)


def test_moments_of_adafactor_are_refused():
    rows = jax.ShapeDtypeStruct((2, 6), np.float32)
    with pytest.raises(UserError, match=r"whose Adafactor moments .*training\.start_from"):
        abstract_earlier({"1.moments.transformer.img_in.kernel.rows": rows}, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ADAPTERS)
def test_a_run_of_adapters_goes_on_on_its_base(unpacked, monkeypatch, capsys, name):
    found = going_on(unpacked / name, "lora", lora_config(), monkeypatch)
    assert_same(found, arrays_then("lora.npz", name))
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("name", WITH_ADAPTERS)
def test_adapters_are_merged_into_their_base(unpacked, name):
    folder = unpacked / name
    wanted = load_file(folder / "run.safetensors")
    lora = load_file(folder / "lora.safetensors")
    adapted = 0
    for module in (n.removesuffix(".weight") for n in list(wanted) if n.endswith(".weight")):
        key = f"lora_unet_{module.replace('.', '_')}"
        if f"{key}.alpha" in lora:
            up, down = lora[f"{key}.lora_up.weight"], lora[f"{key}.lora_down.weight"]
            wanted[f"{module}.weight"] += lora[f"{key}.alpha"] / len(down) * (up @ down)
            adapted += 1
    assert adapted == len(lora) // 3 > 10
    found = official(folder / "lora", base=str(folder / "run"))
    assert found.keys() == wanted.keys()
    for tensor, x in wanted.items():  # two rounded products and float32 sums
        np.testing.assert_allclose(found[tensor], x, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_ADAPTERS)
def test_weights_alone(unpacked, name):
    """Which were rounded."""
    folder = unpacked / name
    wanted = load_file(folder / "run.safetensors")
    found = official(folder / "weights")
    assert_same(found, {n: x.astype(ml_dtypes.bfloat16) for n, x in wanted.items()})
    wanted = part(arrays_then(folder / "run.npz", name), "params.")
    found = read(folder / "weights")
    assert_same(found, {n: x.astype(ml_dtypes.bfloat16) for n, x in wanted.items()})


@pytest.mark.parametrize("name", WITH_ADAPTERS)
def test_adapters_alone(unpacked, name):
    found = read_adapters(unpacked / name / "adapters")
    assert_same(found, part(arrays_then(unpacked / name / "lora.npz", name), "params."))


@pytest.mark.parametrize("item", ["params", "optimizer", "ema"])
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_number_is_noticed(unpacked, tmp_path, monkeypatch, name, item):
    """A number changes by one unit in the last place; the store's own checksums stay valid."""
    run = shutil.copytree(unpacked / name / "run", tmp_path / "run")
    names = part(dict(np.load(unpacked / name / "run.npz")), f"{item}.")
    kernel = next(n for n in names if n.endswith("single_blocks.mlp_in.kernel"))
    number = open_array(run / "checkpoints" / str(STOPPED) / item, kernel)[1, 0, 0]
    number.write(np.nextafter(number.read().result(), np.float32(9))).result()
    if item != "optimizer":
        for reading in (read, official):
            with pytest.raises(UserError, match="no undamaged checkpoint"):
                reading(run, ema=item == "ema")
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged"):
        going_on(tmp_path, "run", run_config(), monkeypatch)


@pytest.fixture(scope="module")
def check_end(unpacked):
    """Compares a state with the final state of the earlier code's run.

    Bit for bit where jax and the processor compute as those of then did. Others round otherwise:
    that changed numbers by up to 4e-7 (jax 0.12; other instructions; other flags of the compiler).
    Each of the steps compared changes parameters by about 1e-2.
    """
    then = json.loads((unpacked / NEWEST / "arithmetic.json").read_text())
    wanted = dict(np.load(unpacked / NEWEST / "end.npz"))

    def check(state):
        assert int(state.step) == STEPS
        found = {n: x for n, x in arrays_of(state).items() if not n.startswith("optimizer.")}
        assert found.keys() == wanted.keys()
        for name, x in wanted.items():
            np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-5, err_msg=name)
        if arithmetic() != then:
            pytest.skip("jax or processor round otherwise: equal within 1e-5, not bit for bit")
        assert_same(found, wanted)

    return check


@pytest.mark.slow  # compiles the real model's step
def test_a_run_begun_then_ends_today_as_it_ended_then(unpacked, tmp_path, check_end):
    shutil.copytree(unpacked / NEWEST / "run", tmp_path / "run")
    check_end(train(run_config(), tmp_path / "run", batches))


@pytest.mark.slow  # as above
def test_the_same_run_from_its_start(tmp_path, check_end):
    check_end(train(run_config(), tmp_path, batches))


def rewritten(run, change):
    """Changes the description and updates its checksum."""
    path = run / "checkpoints" / str(STOPPED) / DESCRIPTION
    values = json.loads(path.read_text())
    about = values["custom_metadata"]
    del about["checksum"]
    change(about)
    about["checksum"] = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    path.write_text(json.dumps(values))


def older(about):
    """Schema 1: without a version, and with other names of parameters."""
    del about["schema_version"]
    for arrays in about["arrays"].values():
        arrays |= {name.replace("attn.", ""): arrays.pop(name) for name in list(arrays)}


def newer(about):
    """A future version, of which only the number is known."""
    about["schema_version"] = SCHEMA_VERSION + 1
    about["items"] = about.pop("arrays")


FILE = r"convert it to \.safetensors with that version's launch\.convert, and start from that file"


@pytest.mark.parametrize(
    ("change", "version", "advice"),
    [(older, 1, FILE), (newer, SCHEMA_VERSION + 1, r"install a newer version\.$")],
    ids=["older", "newer"],
)
def test_other_schemas_are_refused_and_left_alone(
    unpacked, tmp_path, monkeypatch, change, version, advice
):
    run = shutil.copytree(unpacked / NEWEST / "run", tmp_path / "run")
    rewritten(run, change)
    sentence = rf"\(schema {version}, this one has {SCHEMA_VERSION}\); {advice}"
    with pytest.raises(UserError, match=sentence):
        read(run)
    with pytest.raises(UserError, match=sentence):
        going_on(tmp_path, "run", run_config(), monkeypatch)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [str(STOPPED)]
