"""What is damage to a checkpoint and what is not: files, permissions, memory, descriptions."""

import contextlib
import errno
import json
import os
import re
import shutil
import zlib

import jax
import pytest

from step1x_jax.errors import UserError
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.run import restoring
from step1x_jax.weights.run.reader import RunFolder, RunTensors
from tests.training.checkpoint.test_checkpoints import at_step, folders, run_params
from tests.training.tiny import tiny_config

pytestmark = [
    pytest.mark.usefixtures("toy_model"),
    pytest.mark.filterwarnings(
        "ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]
NOBODY = 65534
DESCRIPTION = "_CHECKPOINT_METADATA"


@pytest.fixture(scope="module")
def abstract(toy_model):
    return abstract_state(tiny_config(), make_mesh(MeshConfig(data=2)))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory, abstract):
    """A run with checkpoints 1 and 2. Tests copy it."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir, keep=2)
    state = init_state(tiny_config(), abstract)
    for step in (1, 2):
        checkpoints.save(at_step(state, step), tiny_config(), records=["0123456789abcdef"])
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved_run, tmp_path):
    return shutil.copytree(saved_run, tmp_path / "run")


def restore(workdir, abstract):
    """Returns the step from which a run would resume, and the warnings."""
    said = []
    with contextlib.closing(Checkpoints(workdir, keep=2)) as checkpoints:
        checkpoints.read_newest_config()
        state = checkpoints.restore(abstract, said.append)
        return None if state is None else int(state.step), said


@contextlib.contextmanager
def without_rights():
    """Root may read everything, so as root this switches to another user."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def everything(workdir):
    os.chmod(workdir, 0o777)
    for path in workdir.rglob("*"):
        os.chmod(path, 0o777)
    for parent in workdir.parents:
        if parent.name.startswith(("pytest-", "popen-", "test_")):  # pytest's own
            os.chmod(parent, 0o755)


@pytest.mark.slow
@pytest.mark.parametrize("file", [".", DESCRIPTION, "params", "optimizer/_METADATA", "ema/d"])
def test_missing_rights_are_no_damage(workdir, abstract, file):
    everything(workdir)
    path = workdir / "checkpoints" / "2" / file
    os.chmod(path, 0)
    try:
        with without_rights(), pytest.raises(UserError, match="Permission denied") as error:
            restore(workdir, abstract)
    finally:
        os.chmod(path, 0o777)
    assert "\n" not in str(error.value)
    assert "delete" not in str(error.value)
    assert folders(workdir) == ["1", "2"]
    assert restore(workdir, abstract) == (2, [])


def test_missing_rights_do_not_lead_to_older_weights(workdir):
    everything(workdir)
    path = workdir / "checkpoints" / "2" / "params" / "manifest.ocdbt"
    os.chmod(path, 0)
    with without_rights(), pytest.raises(UserError, match="Permission denied"):
        run_params(workdir)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files"),
        (TimeoutError("the disk is away"), "the disk is away"),
        (MemoryError(), "out of memory"),
        (ValueError("PERMISSION_DENIED: gs://bucket: no access"), "no access"),
        (ValueError("UNAVAILABLE: try later"), "try later"),
        (ValueError("Reading x: Input/output error [os_error_code='5']"), "Input/output error"),
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: a peer is gone"), "a peer is gone"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_errors_of_the_machine_are_no_damage(
    workdir, abstract, monkeypatch, error, sentence, wrapped
):
    def fail(*args, **options):
        if wrapped:  # as Orbax does
            raise KeyError("no handler") from error
        raise error

    monkeypatch.setattr(restoring.ocp, "load_checkpointables", fail)
    with pytest.raises(UserError, match=f"cannot be read .*{sentence}.*not changed"):
        restore(workdir, abstract)
    assert folders(workdir) == ["1", "2"]


def rewrite(change):
    """Changes a checkpoint's description and updates its checksum."""

    def damage(path):
        values = json.loads((path / DESCRIPTION).read_text())
        ours = values["custom_metadata"]
        change(values)
        ours.pop("checksum", None)
        ours["checksum"] = zlib.crc32(json.dumps(ours, sort_keys=True).encode())
        (path / DESCRIPTION).write_text(json.dumps(values))

    return damage


def array_field(field, value):
    def change(values):
        values["custom_metadata"]["arrays"]["params"]["bias"][field] = value

    return rewrite(change)


def field(name, value, *, ours=True):
    def change(values):
        (values["custom_metadata"] if ours else values)[name] = value

    return rewrite(change)


def without(name):
    return rewrite(lambda values: values["custom_metadata"].pop(name))


def text(content):
    return lambda path: (path / DESCRIPTION).write_text(content)


@pytest.mark.parametrize(
    "damage",
    [
        without("config"),
        without("arrays"),
        field("arrays", {}),
        field("arrays", {"params": 5}),
        field("schema_version", "x"),
        field("records", [5]),
        array_field("shape", [-1]),
        array_field("shape", [1.5]),
        array_field("dtype", "object"),
        array_field("dtype", "int4"),
        array_field("fingerprint", [-1, 2]),
        array_field("fingerprint", None),
        field("item_handlers", 5, ours=False),  # Orbax reads these of all checkpoints
        field("metrics", "x", ours=False),
        field("init_timestamp_nsecs", [], ours=False),
        text("[]"),
        text("[" * 100_000),
        text('{"custom_metadata":' * 100_000),
        text("5"),
    ],
)
def test_tampered_descriptions_are_damage(workdir, abstract, damage):
    damage(workdir / "checkpoints" / "2")
    step, said = restore(workdir, abstract)
    assert step == 1
    assert len(said) == 1
    assert folders(workdir) == ["1", "2.damaged"]
    damage(workdir / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged") as error:
        restore(workdir, abstract)
    assert "delete" not in str(error.value)


@pytest.mark.parametrize("step", ["1", "2"])
def test_orbax_reads_older_ones_too(workdir, abstract, step):
    field("metrics", 5, ours=False)(workdir / "checkpoints" / step)
    assert restore(workdir, abstract)[0] == 3 - int(step)
    assert folders(workdir) == sorted([str(3 - int(step)), f"{step}.damaged"])


def config_value(section, name, value):
    def change(values):
        values["custom_metadata"]["config"][section][name] = value

    return rewrite(change)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("model", "depth", 10**8),
        ("model", "depth", -1),
        ("model", "num_heads", 3),
        ("model", "mlp_ratio", 1e300),
        ("training", "steps", "many"),
        ("lora", "rank", -1),
        ("data", "path", 5),
        ("model", "nothing", 1),
    ],
)
def test_impossible_configs_are_one_sentence(workdir, abstract, section, name, value):
    config_value(section, name, value)(workdir / "checkpoints" / "2")
    reads = [lambda run: restore(run, abstract)]
    reads += [run_params] if section in ("model", "lora") else []  # the rest is not asked for
    for read in reads:
        with pytest.raises(UserError, match=name) as error:
            read(workdir)
        assert "\n" not in str(error.value)
    assert folders(workdir) == ["1", "2"]


def test_names_of_arrays_lead_nowhere(workdir, tmp_path):
    """RunTensors creates temporary files with these names."""

    def rename(values):
        params = values["custom_metadata"]["arrays"]["params"]
        params["../../outside"] = params.pop("bias")

    for step in "12":
        rewrite(rename)(workdir / "checkpoints" / step)
    tensors = RunTensors(RunFolder(workdir), tmp_path / "room")
    with pytest.raises(UserError, match="has no undamaged checkpoint"):
        tensors.read("img_in.weight")
    assert not (tmp_path / "room").exists()
    assert not (tmp_path / "outside").exists()


def test_settings_that_are_not_finite_are_no_damage(workdir, abstract):
    path = workdir / "checkpoints" / "2" / DESCRIPTION
    path.write_text(re.sub(r'"clip_norm": 1.0', '"clip_norm": Infinity', path.read_text()))
    with pytest.raises(UserError, match="is not a finite number"):
        restore(workdir, abstract)
    assert folders(workdir) == ["1", "2"]


@pytest.mark.parametrize("name", ["²", "٣", "007", "9" * 30, "-1", " 4", "5.damaged.2"])
def test_other_names_are_no_checkpoints(workdir, abstract, name):
    (workdir / "checkpoints" / name).mkdir()
    assert restore(workdir, abstract) == (2, [])
    assert name in folders(workdir)


def test_a_damaged_one_of_that_name_is_there(workdir, abstract):
    for name in ("2.damaged", "2.damaged.2"):
        (workdir / "checkpoints" / name).mkdir()
        (workdir / "checkpoints" / name / "file").touch()
    text("?")(workdir / "checkpoints" / "2")
    assert restore(workdir, abstract)[0] == 1
    assert folders(workdir) == ["1", "2.damaged", "2.damaged.2", "2.damaged.3"]


def test_what_cannot_be_set_aside_is_one_sentence(workdir, abstract):
    everything(workdir)
    text("?")(workdir / "checkpoints" / "2")
    os.chmod(workdir / "checkpoints", 0o555)
    try:
        with without_rights(), pytest.raises(UserError, match=r"cannot be set aside .Permission"):
            restore(workdir, abstract)
    finally:
        os.chmod(workdir / "checkpoints", 0o777)


def test_checkpoints_of_schema_2_are_read_and_checked(workdir, abstract):
    """These have only the sum of bits."""

    def older(values):
        ours = values["custom_metadata"]
        ours["schema_version"] = 2
        del ours["records"]
        for arrays in ours["arrays"].values():
            for array in arrays.values():
                array["fingerprint"] = array["fingerprint"][0]

    rewrite(older)(workdir / "checkpoints" / "2")
    assert restore(workdir, abstract) == (2, [])

    def wrong(values):
        values["custom_metadata"]["arrays"]["params"]["bias"]["fingerprint"] += 1

    rewrite(wrong)(workdir / "checkpoints" / "2")
    step, said = restore(workdir, abstract)
    assert step == 1
    assert "params.bias does not match its fingerprint" in said[0]
