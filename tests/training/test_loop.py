"""Whole runs of a toy model: start, stop, resume and errors."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.errors import UserError
from step1x_jax.models import step1x_edit
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.overrides import override
from step1x_jax.training import loop
from step1x_jax.training.loop import train
from step1x_jax.training.monitoring.metrics import read_metrics
from tests.training.tiny import batches, count_step, load_config, make_batch, tiny_config
from tests.weights.models import save_model

pytestmark = pytest.mark.usefixtures("toy_model")


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


CLOCK = ("steps_per_second", "seconds_per_step", "data_seconds", "goodput")


def rows(workdir):
    """Return the metrics that do not depend on time."""
    return [
        {name: value for name, value in row.items() if name not in CLOCK}
        for row in read_metrics(workdir)
    ]


def folders(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole_run(toy_model, tmp_path_factory):
    """An uninterrupted run of five steps: its folder and last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(tiny_config(steps=5), workdir, batches)


def test_a_run_leaves_config_metrics_and_checkpoints(whole_run, capsys):
    workdir, state = whole_run
    assert int(state.step) == 5
    assert load_config(workdir / "config.json") == tiny_config(steps=5)
    assert folders(workdir) == ["2", "4", "5"]
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5]
    assert all(row["loss"] > 0 for row in rows(workdir))
    # All steps are done: a second call only reports that.
    again = train(tiny_config(steps=5), workdir, batches)
    assert_same(again, state)
    assert "All 5 steps in" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_is_bit_for_bit(whole_run, tmp_path, number):
    def interrupted(first_step):
        for number_of_batch, batch in enumerate(batches(first_step), first_step):
            if number_of_batch == 3:  # read while the third step runs
                os.kill(os.getpid(), number)
            yield batch

    handler = signal.getsignal(number)
    stopped = train(tiny_config(steps=5), tmp_path, interrupted)
    assert int(stopped.step) == 3
    assert folders(tmp_path) == ["2", "3"]
    assert signal.getsignal(number) is handler  # our handler was removed

    state = train(tiny_config(steps=5), tmp_path, batches)
    assert_same(state, whole_run[1])
    assert rows(tmp_path) == rows(whole_run[0])


def test_falling_back_repeats_the_lost_steps(whole_run, tmp_path, capsys):
    """More steps, a damaged newest checkpoint; no metrics row is written twice."""
    train(tiny_config(steps=4), tmp_path, batches)
    (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_text("?")
    config = override(tiny_config(steps=5), {"training.log_every": 1})
    state = train(config, tmp_path, batches)
    assert "Checkpoint 4 is damaged" in capsys.readouterr().out
    assert_same(state, whole_run[1])
    assert rows(tmp_path) == rows(whole_run[0])


def test_another_config_is_refused(whole_run):
    config = override(tiny_config(steps=6), {"optimizer.learning_rate": 0.5})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate is 0\.5 but"):
        train(config, whole_run[0], batches)
    with pytest.raises(UserError, match=r"has done 5 steps, more than training\.steps=4"):
        train(tiny_config(steps=4), whole_run[0], batches)
    assert load_config(whole_run[0] / "config.json").optimizer.learning_rate == 0.01


def test_a_run_keeps_the_fingerprints_of_its_records(tmp_path):
    train(
        tiny_config(steps=2), tmp_path, batches
    )  # like a run of an older version, without fingerprints
    train(tiny_config(steps=3), tmp_path, batches, records=["a", "b"])
    config = tiny_config(steps=4)
    with pytest.raises(UserError, match="are not those that the run"):
        train(config, tmp_path, batches, records=["a", "c"])
    config = override(config, {"data.path": "moved"})
    assert int(train(config, tmp_path, batches, records=["a", "b"]).step) == 4


def test_what_a_step_moves_unasked_is_an_error(tmp_path, monkeypatch):
    """The batch as numpy arrays would be transferred by the call of the step."""
    monkeypatch.setattr(loop, "to_global_arrays", lambda rows, mesh: rows)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(tiny_config(), tmp_path, batches)


def test_one_at_a_time(tmp_path):
    def again(first_step):
        with pytest.raises(UserError, match=r"another process trains in .*run; wait for it"):
            train(tiny_config(), tmp_path / "run", batches)
        return batches(first_step)

    train(tiny_config(steps=1), tmp_path / "run", again)
    train(tiny_config(steps=2), tmp_path / "run", batches)  # the lock was released
    assert not list((tmp_path / "run").glob("*lock*"))


@pytest.mark.parametrize("name", ["run [a]", "run*", "r?n", "back\\slash", "\udcff", "colon:/run"])
def test_names_that_checkpoints_cannot_be_under(tmp_path, name):
    with pytest.raises(UserError, match="use another name") as error:
        train(tiny_config(), tmp_path / name, batches)
    assert str(error.value).encode()  # it can be printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["[run", "a b#c%20d", "ü", "a,b", "{a}", "(a)", "$HOME", "'"])
def test_other_names_work(tmp_path, name):
    train(tiny_config(steps=1), tmp_path / name, batches)
    assert int(train(tiny_config(steps=2), tmp_path / name, batches).step) == 2


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    train(tiny_config(steps=1), "~/run", batches)
    assert folders(tmp_path / "run") == ["1"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="could not be written"):
        train(tiny_config(), tmp_path / "run", batches)


@pytest.mark.parametrize("damage", ["[" * 100_000, '{"model": 5}', None])
def test_config_json_is_not_read_to_go_on(tmp_path, damage):
    """The config of the checkpoint is used, and the file is rewritten."""
    train(tiny_config(steps=1), tmp_path, batches)
    path = tmp_path / "config.json"
    path.unlink() if damage is None else path.write_text(damage)
    config = override(tiny_config(steps=2), {"training.seed": 1})
    with pytest.raises(UserError, match=r"training\.seed is 1 but"):
        train(config, tmp_path, batches)
    train(tiny_config(steps=2), tmp_path, batches)
    assert load_config(path) == tiny_config(steps=2)


def test_a_batch_that_does_not_split(tmp_path):
    config = override(tiny_config(), {"data.batch_size": 12})
    with pytest.raises(UserError, match=r"data\.batch_size 12"):
        train(config, tmp_path / "run", batches)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path):
    def spoilt(first_step):
        for number, batch in enumerate(batches(first_step), first_step):
            yield batch | {"target": batch["target"] * (np.nan if number == 3 else 1)}

    with pytest.raises(UserError, match=r"is nan at step 4; lower optimizer\.learning_rate"):
        train(tiny_config(steps=8), tmp_path, spoilt)
    assert folders(tmp_path) == ["2"]
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_a_sentence_from_the_data_ends_the_run(tmp_path):
    def damaged(first_step):
        yield make_batch(0)
        raise UserError("record 7 is damaged")

    with pytest.raises(UserError, match="record 7"):
        train(tiny_config(), tmp_path, damaged)


@pytest.fixture
def no_learning(monkeypatch):
    """Steps are counted but do not change the parameters."""

    def step(state, batch, frozen):
        values = dict.fromkeys(("loss", "grad_norm", "learning_rate", "param_norm"), 1.0)
        return dataclasses.replace(state, step=count_step(state.step)), values

    monkeypatch.setattr(loop, "make_train_step", lambda config, mesh, abstract: step)


@pytest.mark.usefixtures("no_learning")
def test_starting_from_another_run(whole_run, tmp_path, capsys):
    config = override(tiny_config(steps=1), {"training.start_from": str(whole_run[0])})
    state = train(config, tmp_path, batches)
    assert "Starting from the weights of" in capsys.readouterr().out
    assert int(state.step) == 1
    assert_same(state.params, whole_run[1].params)
    assert not any(x.any() for x in jax.tree.leaves(state.opt_state))


@pytest.mark.slow
@pytest.mark.usefixtures("no_learning")
def test_starting_from_a_released_file(tmp_path, monkeypatch):
    monkeypatch.setattr(step1x_edit, "Step1XEdit", Step1XEdit)  # the real model
    config = tiny_config(steps=1)
    graph, abstract = step1x_edit.abstract_model(config.model)
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), abstract)
    save_model(tmp_path / "weights.safetensors", nnx.merge(graph, given))
    config = override(config, {"training.start_from": str(tmp_path / "weights.safetensors")})
    state = train(config, tmp_path / "run", batches)
    assert_same(state.params, given)
    assert state.params["transformer"]["img_in"]["kernel"].sharding.spec == jax.P(None, "fsdp")


@pytest.mark.parametrize("missing", ["nothing", "nothing.safetensors"])
def test_nothing_to_start_from(tmp_path, missing):
    config = override(tiny_config(), {"training.start_from": str(tmp_path / missing)})
    with pytest.raises(UserError, match="nothing"):
        train(config, tmp_path / "run", batches)


def test_starting_from_another_size(whole_run, tmp_path):
    config = override(
        tiny_config(),
        {
            "model.hidden_size": 64,
            "model.axes_dim": (8, 12, 12),
            "training.start_from": str(whole_run[0]),
        },
    )
    wanted = r"is of another model: its sizes are model\.hidden_size=32 \(here 64\)"
    with pytest.raises(UserError, match=wanted):
        train(config, tmp_path, batches)


@pytest.mark.slow
def test_starting_from_a_file_of_another_size(tmp_path, monkeypatch):
    """config.json beside the weights tells which sizes differ."""
    monkeypatch.setattr(step1x_edit, "Step1XEdit", Step1XEdit)
    model = Step1XEdit(tiny_config().model, rngs=nnx.Rngs(0))
    save_model(tmp_path / "base" / "weights.safetensors", model)
    config = override(
        tiny_config(), {"model.depth": 2, "training.start_from": str(tmp_path / "base")}
    )
    with pytest.raises(UserError, match=r"its sizes are model\.depth=1 \(here 2\)"):
        train(config, tmp_path / "run", batches)
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(UserError, match="does not fit the model's sizes"):
        train(config, tmp_path / "run", batches)


def test_it_is_said_what_compiles(tmp_path, capsys):
    train(tiny_config(steps=2), tmp_path, batches)
    said = capsys.readouterr().out
    assert said.index("compiling the step for 8 pictures of 48 x 32 ...") < said.index("step 1/2")
    assert said.count("compiling") == 1


def test_embeddings_of_another_width_are_refused(tmp_path):
    def narrow(first_step):
        for batch in batches(first_step):
            yield batch | {"text": batch["text"][..., 1:]}

    with pytest.raises(UserError, match="embeddings of width 23, the model takes 24"):
        train(tiny_config(), tmp_path, narrow)
