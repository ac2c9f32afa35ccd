"""Loss and pictures of held-out edits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from step1x_jax.errors import UserError
from step1x_jax.models.autoencoder import Autoencoder
from step1x_jax.models.config import AutoencoderConfig
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import make_mesh
from step1x_jax.training import loop
from step1x_jax.training.config import HeldOutConfig
from step1x_jax.training.loop import train
from step1x_jax.training.monitoring.held_out import HeldOutEvaluator
from step1x_jax.training.monitoring.metrics import read_metrics
from step1x_jax.training.step.loss import interpolate, rectified_flow_loss
from step1x_jax.training.step.randomness import rng_stream
from step1x_jax.training.step.train_step import abstract_state, make_train_step
from step1x_jax.training.trainable_split import abstract_split, init_trained, shardings_of
from step1x_jax.weights.save import save_autoencoder
from tests.training.tiny import batches, make_batch, tiny_config

pytestmark = pytest.mark.usefixtures("toy_model")
NOTHING = nnx.State({})
TIMES = (0.25, 0.75)


def held_out(dropped):
    """Yield edits that differ from the training edits; without instructions, other texts."""
    for number in range(100, 110):
        batch = make_batch(number)
        yield batch | {"text": batch["text"] * (0.1 if dropped else 1.0)}


def config_with(**fields):
    return override(
        tiny_config(steps=4),
        {"held_out": HeldOutConfig(path="x", every=2, batches=2, times=TIMES, **fields)},
    )


def test_the_loss_is_the_mean_at_each_time(tmp_path):
    config = config_with()
    mesh = make_mesh(config.mesh)
    params, graph = init_trained(config), abstract_split(config).graph
    evaluation = HeldOutEvaluator(config, mesh, held_out, tmp_path)
    with jax.set_mesh(mesh):
        found = evaluation.compute_losses(params, NOTHING)
        assert evaluation.compute_losses(params, NOTHING) == found

    model = nnx.merge(graph, params)
    want = np.zeros(2)
    for number in range(2):
        batch = {name: jnp.asarray(x) for name, x in make_batch(100 + number).items()}
        key = jax.random.fold_in(rng_stream(config.training.seed, "held_out"), number)
        noise = jax.random.normal(key, batch["target"].shape)
        for i, time in enumerate(TIMES):
            t = jnp.full(8, time)
            noisy = interpolate(batch["target"], noise, t)
            velocity = model(noisy, batch["source"], batch["text"], batch["text_lengths"], t)
            want[i] += rectified_flow_loss(velocity, batch["target"], noise) / 2
    assert found["held_out_loss_0.25"] == pytest.approx(want[0], rel=1e-5)
    assert found["held_out_loss_0.75"] == pytest.approx(want[1], rel=1e-5)
    assert found["held_out_loss"] == pytest.approx(want.mean(), rel=1e-5)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    sizes = AutoencoderConfig(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    model = Autoencoder(sizes, rngs=nnx.Rngs(0))
    save_autoencoder(folder / "weights.safetensors", model)
    return folder


@pytest.mark.slow
def test_a_run_looks_at_them_and_learns_nothing_from_it(tmp_path, autoencoder, capsys):
    plain = train(tiny_config(steps=4), tmp_path / "plain", batches)
    config = override(
        config_with(pictures=3),
        {"autoencoder": str(autoencoder), "sampling.num_steps": 2, "sampling.guidance": 1.5},
    )
    state = train(config, tmp_path / "run", batches, held_out)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run")}
    assert [step for step, row in rows.items() if "held_out_loss" in row] == [2, 4]
    assert rows[4]["held_out_loss"] != rows[2]["held_out_loss"]
    pictures = tmp_path / "run" / "pictures"
    assert sorted(p.name for p in pictures.iterdir()) == ["step-2.png", "step-4.png"]
    with Image.open(pictures / "step-4.png") as picture:
        assert picture.size == (3 * 6 * 8, 3 * 4 * 8)  # source, edited, true edit; three edits
    assert "step-4.png" in capsys.readouterr().out


def picture(path):
    """Return the sampled column of a picture with one edit, as signed integers."""
    return np.asarray(Image.open(path), np.int16)[:, 48:96]


@pytest.fixture
def evaluations(monkeypatch):
    """Collect the evaluators that runs create."""
    made = []
    monkeypatch.setattr(
        loop, "HeldOutEvaluator", lambda *args: made.append(HeldOutEvaluator(*args)) or made[-1]
    )
    return made


def averaged_config(autoencoder, decay):
    return override(
        config_with(pictures=1),
        {
            "optimizer.ema_decay": decay,
            "autoencoder": str(autoencoder),
            "sampling.num_steps": 2,
            "sampling.guidance": 1.5,
        },
    )


def test_a_run_with_a_moving_average_evaluates_it(
    tmp_path, autoencoder, evaluations, monkeypatch, capsys
):
    """Compare with an average computed here; the last parameters give other results."""
    config = averaged_config(autoencoder, 0.8)
    mesh, after = make_mesh(config.mesh), [jax.device_get(init_trained(config))]

    def make(*args):
        step = make_train_step(*args)

        def recorded(*args):
            state, values = step(*args)
            after.append(jax.device_get(state.params))
            return state, values

        return recorded

    monkeypatch.setattr(loop, "make_train_step", make)
    train(config, tmp_path, batches, held_out)
    said = "evaluated with the moving average of the parameters (optimizer.ema_decay 0.8)."
    assert capsys.readouterr().out.count(said) == 1
    rows = {row["step"]: row for row in read_metrics(tmp_path)}
    assert {s: row.get("held_out_ema_decay") for s, row in rows.items()} == {
        1: None, 2: 0.8, 3: None, 4: 0.8
    }  # fmt: skip

    (evaluation,) = evaluations
    places = shardings_of(abstract_state(config, mesh).params)
    for step in (2, 4):
        parts = [0.8**step, *(0.2 * 0.8 ** (step - i) for i in range(1, step + 1))]
        mean = partial(weighted_mean, parts)
        here = jax.device_put(jax.tree.map(mean, *after[: step + 1]), places)
        last = jax.device_put(after[step], places)
        with jax.set_mesh(mesh):
            found, of_last = (
                evaluation.compute_losses(here, NOTHING),
                evaluation.compute_losses(last, NOTHING),
            )
            shown, shown_of_last = (
                picture(evaluation.write_picture(x, NOTHING, 10 + i))
                for i, x in enumerate((here, last))
            )
        for name, value in found.items():
            assert rows[step][name] == pytest.approx(value, rel=1e-5)  # rounding of the mean
            assert rows[step][name] != pytest.approx(of_last[name], rel=1e-3)
        of_run = picture(tmp_path / "pictures" / f"step-{step}.png")
        assert np.abs(of_run - shown).max() <= 1  # one of 255 levels, by the same rounding
        assert np.abs(of_run - shown_of_last).max() > 10
    assert evaluation._losses._cache_size() == 1  # the average runs the same program


def weighted_mean(parts, *arrays):
    """Compute the mean in float64 and round it to float32."""
    return np.average(arrays, axis=0, weights=parts).astype(np.float32)


def test_a_run_without_one_evaluates_its_parameters(tmp_path, autoencoder, evaluations, capsys):
    config = averaged_config(autoencoder, 0.0)
    state = train(config, tmp_path, batches, held_out)
    assert "moving average" not in capsys.readouterr().out
    row, (evaluation,) = read_metrics(tmp_path)[-1], evaluations
    with jax.set_mesh(make_mesh(config.mesh)):
        found = evaluation.compute_losses(state.params, NOTHING)
        shown = picture(evaluation.write_picture(state.params, NOTHING, 10))
    assert {name: x for name, x in row.items() if name.startswith("held_out")} == found
    np.testing.assert_array_equal(picture(tmp_path / "pictures" / "step-4.png"), shown)


def test_pictures_see_the_empty_instruction(tmp_path, autoencoder):
    """Guidance uses the dropped instruction: other negatives give other pictures."""
    config = override(
        config_with(pictures=1),
        {"autoencoder": str(autoencoder), "sampling.num_steps": 2, "sampling.guidance": 3.0},
    )
    mesh, params = make_mesh(config.mesh), init_trained(config)

    def same(dropped):
        return held_out(False)

    with jax.set_mesh(mesh):
        for name, data in (("a", held_out), ("b", same)):
            HeldOutEvaluator(config, mesh, data, tmp_path / name).write_picture(params, NOTHING, 1)
    shown = [np.asarray(Image.open(tmp_path / x / "pictures" / "step-1.png")) for x in "ab"]
    assert (shown[0] != shown[1]).any()


def test_pictures_need_an_autoencoder(tmp_path):
    config = config_with(pictures=1)
    with pytest.raises(UserError, match=r"autoencoder is .*give one for held_out\.pictures"):
        HeldOutEvaluator(config, make_mesh(config.mesh), held_out, tmp_path)
