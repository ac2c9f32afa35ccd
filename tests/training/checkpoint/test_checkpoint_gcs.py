"""Checkpoints on an object store: the real Orbax and TensorStore with a fake server."""

import itertools

import numpy as np
import pytest

from step1x_jax.errors import UserError
from step1x_jax.files import Growing
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.checkpoint.checkpoints import Checkpoints
from step1x_jax.training.loop import train
from step1x_jax.training.monitoring.metrics import read_metrics
from step1x_jax.training.step.train_step import abstract_state, init_state
from tests.training.checkpoint.test_checkpoints import assert_same, at_step, restore, run_params
from tests.training.tiny import batches, tiny_config

pytestmark = [
    pytest.mark.usefixtures("toy_model"),
    pytest.mark.filterwarnings(
        "ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]
RUN = "gs://bucket/run"
AT = "bucket/run/checkpoints"


@pytest.fixture(scope="module")
def abstract(toy_model):
    return abstract_state(tiny_config(), make_mesh(MeshConfig(data=2)))


@pytest.fixture(scope="module")
def state(abstract):
    return init_state(tiny_config(), abstract)


def save(state, *steps):
    checkpoints = Checkpoints(RUN, keep=2)
    for step in steps:
        checkpoints.save(at_step(state, step), tiny_config())
    checkpoints.close()


def flip_a_bit(store, step):
    """Flip a bit in the middle of the largest object."""
    names = [name for name in store.names if name.startswith(f"{AT}/{step}/params/")]
    name = max(names, key=lambda name: len(store.get(name)[1]))
    data = bytearray(store.get(name)[1])
    data[len(data) // 2] ^= 1
    store.put(name, data)


def numbers(store):
    return {name.split("/")[3] for name in store.names if name.startswith(AT + "/")}


@pytest.mark.slow
def test_the_newest_comes_back_and_old_ones_are_deleted(gcs, state, abstract):
    save(state, 1, 2, 3)
    assert numbers(gcs) == {"2", "3"}
    restored, said = restore(RUN, abstract)
    assert_same(restored, at_step(state, 3))
    assert said == []
    params, _ = run_params(RUN)
    np.testing.assert_array_equal(params["bias"][...], at_step(state, 3).params["bias"][...])


@pytest.mark.slow
def test_listings_that_lag_neither_lose_nor_resurrect(gcs, state, abstract):
    save(state, 1, 2)
    gcs.freeze_listings(AT)  # in the folder 1 stays listed and 3 never appears
    save(state, 3)
    assert numbers(gcs) == {"2", "3"}
    restored, said = restore(RUN, abstract)
    assert int(restored.step) == 3
    assert said == []
    save(state, 4)
    gcs.thaw_listings()
    gcs.freeze_listings(AT)
    for name in [name for name in gcs.names if name.startswith(f"{AT}/4/")]:
        gcs.delete(name)
    restored, said = restore(RUN, abstract)
    assert int(restored.step) == 3
    assert said == []


def test_what_is_not_listed_yet_is_not_taken_for_damaged(gcs, state, abstract):
    save(state, 1)
    before = gcs.names
    gcs.show_nothing()
    with pytest.raises(UserError, match="run the command again in a minute"):
        restore(RUN, abstract)
    assert gcs.names == before


@pytest.mark.slow
def test_a_save_that_was_killed_is_none(gcs, state, abstract):
    save(state, 1, 2)
    gcs.delete(f"{AT}/2/commit_success.txt")  # it is written last
    assert gcs.puts.index(f"{AT}/2/commit_success.txt") == max(
        i for i, name in enumerate(gcs.puts) if name.startswith(f"{AT}/2/")
    )
    restored, said = restore(RUN, abstract)
    assert int(restored.step) == 1
    assert said == []
    save(state, 2)
    assert int(restore(RUN, abstract)[0].step) == 2


@pytest.mark.slow
def test_a_damaged_one_is_said_set_aside_and_written_again(gcs, state, abstract):
    save(state, 1, 2)
    flip_a_bit(gcs, 2)
    restored, said = restore(RUN, abstract)
    assert_same(restored, at_step(state, 1))
    assert len(said) == 1
    assert "Checkpoint 2 is damaged" in said[0]
    assert restore(RUN, abstract)[1] == []  # it is not considered intact again
    save(state, 2)
    assert_same(restore(RUN, abstract)[0], at_step(state, 2))


def test_no_start_from_nothing_where_all_were_damaged(gcs, state, abstract):
    save(state, 1)
    flip_a_bit(gcs, 1)
    gcs.freeze_listings()
    for _ in range(2):  # also if the command is repeated
        with pytest.raises(UserError, match="All checkpoints in gs://bucket/run/checkpoints are"):
            restore(RUN, abstract)


def test_a_bucket_that_takes_nothing_is_one_sentence(gcs, state, abstract):
    save(state, 1)
    checkpoints = Checkpoints(RUN, keep=2)
    gcs.full = True
    with pytest.raises(UserError, match="could not be written"):
        checkpoints.save(at_step(state, 2), tiny_config())
        checkpoints.close()
    gcs.full = False
    assert int(restore(RUN, abstract)[0].step) == 1


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_on_a_disk(gcs, tmp_path, monkeypatch):
    config = tiny_config(steps=5)

    def breaking_off(first_step):
        yield from itertools.islice(batches(first_step), 4)  # the update of step 4 is lost
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(Growing, "close", lambda self: None)  # a killed process does not close it
        train(config, RUN, breaking_off)
    assert [row["step"] for row in read_metrics(RUN)] == [1, 2]  # the rows up to the checkpoint
    state = train(config, RUN, batches)
    whole = train(config, tmp_path, batches)
    assert_same(state.params, whole.params)
    here, there = ([(row["step"], row["loss"]) for row in read_metrics(x)] for x in (RUN, tmp_path))
    assert here == there
    assert "bucket/run/config.json" in gcs.names


def test_other_stores_are_refused(store):
    with pytest.raises(UserError, match="checkpoints can be in gs:// or on a disk"):
        Checkpoints("s3://bucket/run", keep=2)
