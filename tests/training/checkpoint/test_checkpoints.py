import contextlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import abstract_model
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.config_file import from_json
from step1x_jax.training.step.train_step import abstract_state, init_state
from step1x_jax.weights.run import description
from step1x_jax.weights.run.reader import RunFolder
from tests.training.tiny import tiny_config

pytestmark = [
    pytest.mark.usefixtures("toy_model"),
    # Orbax emits these when it fails to load damaged files.
    pytest.mark.filterwarnings(
        "ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2))


@pytest.fixture(scope="module")
def state(toy_model, mesh):
    return init_state(tiny_config(), abstract_state(tiny_config(), mesh))


@pytest.fixture(scope="module")
def abstract(toy_model, mesh):
    return abstract_state(tiny_config(), mesh)


def at_step(state, step):
    """Return the state at another step with other parameters."""
    number = jax.device_put(jnp.int32(step), state.step.sharding)
    params = jax.tree.map(lambda x: x + step, state.params)
    return type(state)(number, params, state.opt_state, state.ema)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert (x.dtype, x.sharding) == (y.dtype, y.sharding)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory, state):
    """A run with checkpoints 2 and 3; 1 was deleted, because keep=2. Tests copy it."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(at_step(state, step), tiny_config())
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved_run, tmp_path):
    return shutil.copytree(saved_run, tmp_path / "run")


def restore(workdir, abstract):
    """Return the restored state and the warnings."""
    said = []
    checkpoints = Checkpoints(workdir, keep=2)
    try:
        return checkpoints.restore(abstract, said.append), said
    finally:
        checkpoints.close()


def folders(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def flip_a_bit(workdir, step, item="params"):
    """Flip a bit in the middle of the largest data file."""
    files = (workdir / "checkpoints" / str(step) / item).rglob("d/*")
    path = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_newest_comes_back(workdir, state, abstract):
    restored, said = restore(workdir, abstract)
    assert_same(restored, at_step(state, 3))
    assert folders(workdir) == ["2", "3"]
    assert said == []


def test_there_may_be_none(tmp_path, abstract):
    assert restore(tmp_path, abstract) == (None, [])


def test_on_another_mesh(workdir, state):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = abstract_state(tiny_config(), mesh)
    restored, said = restore(workdir, abstract)
    assert said == []
    for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(at_step(state, 3)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert restored.step.sharding.mesh.size == 1


@pytest.mark.parametrize("item", ["params", "optimizer", "ema"])
def test_a_flipped_bit_is_noticed(workdir, state, abstract, item):
    flip_a_bit(workdir, 3, item)
    restored, said = restore(workdir, abstract)
    assert_same(restored, at_step(state, 2))
    assert len(said) == 1
    assert "Checkpoint 3 is damaged" in said[0]
    assert folders(workdir) == ["2", "3.damaged"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: [p.unlink() for p in path.rglob("d/*")],
        lambda path: (path / "_CHECKPOINT_METADATA").write_text("{"),
        lambda path: (path / "_CHECKPOINT_METADATA").unlink(),
        lambda path: replace(path / "_CHECKPOINT_METADATA", '"batch_size": 8', '"batch_size": 9'),
        lambda path: (shutil.rmtree(path), path.mkdir()),
    ],
    ids=["no data", "bad description", "no description", "wrong description", "empty folder"],
)
def test_damage_falls_back(workdir, state, abstract, damage):
    damage(workdir / "checkpoints" / "3")
    restored, said = restore(workdir, abstract)
    assert_same(restored, at_step(state, 2))
    assert len(said) == 1


def test_after_falling_back_the_step_can_be_saved_again(workdir, state, abstract):
    flip_a_bit(workdir, 3)
    checkpoints = Checkpoints(workdir, keep=2)
    checkpoints.restore(abstract, print)
    checkpoints.save(at_step(state, 3), tiny_config())
    checkpoints.close()
    assert folders(workdir) == ["2", "3", "3.damaged"]
    assert_same(restore(workdir, abstract)[0], at_step(state, 3))


def test_all_damaged(workdir, abstract):
    flip_a_bit(workdir, 2)
    flip_a_bit(workdir, 3)
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged"):
        restore(workdir, abstract)


def test_half_written_ones_are_ignored(workdir, state, abstract):
    (workdir / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    restored, _ = restore(workdir, abstract)
    assert int(restored.step) == 3
    assert folders(workdir) == ["2", "3"]


def test_another_model_size_names_the_tensor_and_both_shapes(workdir, mesh):
    config = override(tiny_config(), {"model.hidden_size": 64})
    wanted = r"img_in is float32\[16, 32\] there and float32\[16, 64\] in this config"
    with pytest.raises(UserError, match=wanted):
        restore(workdir, abstract_state(config, mesh))
    assert folders(workdir) == ["2", "3"]  # it is not damaged


def test_a_tensor_too_few_or_too_many(workdir, mesh):
    abstract = abstract_state(tiny_config(), mesh)
    bias = abstract.params.pop("bias")
    with pytest.raises(UserError, match="its bias does not exist in this config"):
        restore(workdir, abstract)
    abstract.params["bias"] = abstract.params["more"] = bias
    with pytest.raises(UserError, match="more is missing there"):
        restore(workdir, abstract)


def test_another_dtype_is_refused(workdir, abstract):
    bf16 = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), abstract
    )
    with pytest.raises(UserError, match=r"float32.* there and bfloat16"):
        restore(workdir, bf16)


def test_a_full_disk_leaves_the_older_ones(tmp_path, state, abstract):
    """The kernel refuses files over 4 KiB, so writing fails half-way as on a full disk."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(at_step(state, 1), tiny_config())
    checkpoints.wait()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match="could not be written") as error:
            checkpoints.save(at_step(state, 2), tiny_config())
            checkpoints.wait()
        with contextlib.suppress(UserError):  # Orbax may raise it again
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "\n" not in str(error.value)
    assert folders(tmp_path) == ["1"]
    assert_same(restore(tmp_path, abstract)[0], at_step(state, 1))


def run_params(workdir, abstract=None, **options):
    """Read the newest intact checkpoint with RunFolder."""
    run = RunFolder(workdir, **options)
    return run.restore(abstract_model(run.model)[1] if abstract is None else abstract), run


def test_a_run_is_read_for_others(workdir, state):
    params, run = run_params(workdir)
    assert from_json(dict(run.config), "it") == tiny_config()
    assert (run.step, run.model, run.lora.rank) == (3, tiny_config().model, 0)
    graph, abstract = abstract_model(run.model)
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    nnx.merge(graph, params)
    wanted = at_step(state, 3).params
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(x, y)
        assert len(x.devices()) == 1

    ema, _ = run_params(workdir, ema=True)
    for x, y in zip(jax.tree.leaves(ema), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(x, y)


def test_reading_for_others_falls_back_and_leaves_the_run_alone(workdir, state):
    flip_a_bit(workdir, 3)
    said = []
    params, _ = run_params(workdir, say=said.append)
    wanted = at_step(state, 2).params
    np.testing.assert_array_equal(jax.tree.leaves(params)[0], jax.tree.leaves(wanted)[0])
    assert len(said) == 1
    assert folders(workdir) == ["2", "3"]


def test_reading_for_others_says_what_is_wrong(workdir, tmp_path):
    with pytest.raises(UserError, match="no complete checkpoint"):
        RunFolder(tmp_path / "nothing")
    config = override(tiny_config(), {"model.hidden_size": 64})
    with pytest.raises(UserError, match=r"img_in is float32\[16, 32\] there"):
        run_params(workdir, abstract_model(config.model)[1])


def test_a_relative_folder(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("runs/mine", keep=1)
    checkpoints.save(at_step(state, 1), tiny_config())
    checkpoints.close()
    params, _ = run_params("runs/mine")
    jax.tree.map(np.testing.assert_array_equal, params, at_step(state, 1).params)


def test_arrays_of_another_step_are_noticed(workdir, state, abstract):
    """The files are valid but hold other numbers, which only our fingerprints detect."""
    folder = workdir / "checkpoints"
    shutil.rmtree(folder / "3" / "params")
    shutil.copytree(folder / "2" / "params", folder / "3" / "params")
    restored, said = restore(workdir, abstract)
    assert_same(restored, at_step(state, 2))
    assert "does not match its fingerprint" in said[0]


def test_another_version_asks_for_that_version(workdir, mesh, monkeypatch):
    monkeypatch.setattr(description, "SCHEMA_VERSION", 1000)
    monkeypatch.setattr(description, "READ", (1000,))
    with pytest.raises(UserError, match=r"another version of step1x_jax .*launch\.convert"):
        restore(workdir, abstract_state(tiny_config(), mesh))
    assert folders(workdir) == ["2", "3"]  # none is considered damaged
