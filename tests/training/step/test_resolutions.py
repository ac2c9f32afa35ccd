"""A run on records of several resolutions and shapes, as in configs/finetune_mixed.py."""

from collections import Counter, defaultdict

import jax
import numpy as np
import pytest

from step1x_jax.data.manifest import write_dataset
from step1x_jax.data.pipeline import make_batches
from step1x_jax.models import step1x_edit
from step1x_jax.overrides import override
from step1x_jax.training import loop
from step1x_jax.training.loop import train
from step1x_jax.training.monitoring.metrics import read_metrics
from tests.data.examples import make_record
from tests.training.tiny import Toy, tiny_config

# (latent size, records, how many times the batch size a step holds: 136, 40 and 32 tokens with
# the text's 8)
BUCKETS = [((16, 16), 16, 1), ((8, 8), 24, 3), ((4, 12), 32, 4)]
TIMES = defaultdict(list)  # latent size -> of the examples


class Witness(Toy):
    """A toy model that records the timesteps of its calls."""

    def __call__(self, latents, reference, text, text_lengths, timesteps):
        size = latents.shape[1:3]
        jax.debug.callback(lambda t: TIMES[size].extend(np.float64(t)), timesteps)
        return super().__call__(latents, reference, text, text_lengths, timesteps)


@pytest.mark.slow
def test_a_run_on_three_buckets(tmp_path, monkeypatch):
    """Shares and timesteps depend on the bucket; each bucket compiles exactly one program."""
    monkeypatch.setattr(step1x_edit, "Step1XEdit", Witness)
    steps = []

    def make_train_step(*args):
        steps.append(real(*args))
        return steps[-1]

    real = loop.make_train_step
    monkeypatch.setattr(loop, "make_train_step", make_train_step)
    number = 0
    for folder, buckets in (("large", BUCKETS[:1]), ("small", BUCKETS[1:])):
        sizes = [size for size, count, _ in buckets for _ in range(count)]
        records = [make_record(number + i, size, width=24) for i, size in enumerate(sizes)]
        write_dataset(tmp_path / folder, records)
        number += len(records)

    config = override(
        tiny_config(steps=16 + 8 + 8),
        {"data.path": f"{tmp_path / 'large'},{tmp_path / 'small'}", "timesteps.std": 1e-4},
    )
    seen, ids = Counter(), Counter()

    def batches(first_step):
        stream = make_batches(config.data, text_length=8, seed=0, start_step=first_step)
        for batch in stream:
            seen[batch["target"].shape] += 1
            ids.update(batch["ids"].tolist())
            yield batch

    train(config, tmp_path / "run", batches)

    # 16, 24 / 3 and 32 / 4 steps of the buckets: one round, in which each edit occurs 8 times.
    wanted = {(8 * times, *size, 16): count // times for size, count, times in BUCKETS}
    assert seen == wanted
    assert len(ids) == number
    assert set(ids.values()) == {8}
    (step,) = steps
    assert step._cache_size() == len(BUCKETS)
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 32
    assert all(np.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)

    jax.effects_barrier()
    for (h, w), count, _ in BUCKETS:
        times = np.array(TIMES[h, w])
        assert len(times) >= 8 * count
        # the release's shift: exp(mu), linear in the noise tokens. Five deviations of 1e-4; from
        # one bucket to the next it is 0.0068 and 0.0007.
        mu = 0.5 + 0.65 * (h * w / 4 - 256) / (4096 - 256)
        assert np.log(times / (1 - times)) == pytest.approx(mu, abs=6e-4)
