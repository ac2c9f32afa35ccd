"""Which policy "auto" chooses for the release on chips of known memory."""

import jax
import pytest

from step1x_jax.models.config import step1x_edit_v1_1
from step1x_jax.overrides import override
from step1x_jax.parallel.mesh import MeshConfig, make_mesh
from step1x_jax.training.config import TrainConfig
from step1x_jax.training.describe import abstract_batch
from step1x_jax.training.step import remat_choice
from step1x_jax.training.step.remat_choice import resolve_remat, saved_bytes
from step1x_jax.training.step.train_step import abstract_state
from step1x_jax.training.trainable_split import abstract_frozen

GIB = 2**30


@pytest.fixture(scope="module")
def case():
    config = override(
        TrainConfig(model=step1x_edit_v1_1()), {"model.remat": "auto", "data.batch_size": 8}
    )
    mesh = make_mesh(MeshConfig())
    state, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    return config.model, abstract_batch(config, 1024, mesh), state, frozen, mesh


def chosen(case, gib, monkeypatch):
    monkeypatch.setattr(remat_choice, "get_memory_bytes", lambda device: gib and gib * GIB)
    return resolve_remat(*case).remat


def test_more_memory_stores_more(case, monkeypatch):
    """On 8 chips: 17.4 GiB state, 5.8 gradients; saved: 3 (block inputs) to 30 GiB (all)."""
    order = [chosen(case, gib, monkeypatch) for gib in (24, 30, 40, 48, 51, 64)]
    assert order[0] == "full"
    assert order[-1] == "attention_qkv_mlp"
    ranks = [list(remat_choice.SAVED).index(policy) for policy in order]
    assert ranks == sorted(ranks)
    assert len(set(order)) >= 4
    assert chosen(case, None, monkeypatch) == "full"  # unknown memory


def test_small_pictures_take_what_their_tokens_take(case, monkeypatch):
    """Three pictures of 512 px have fewer tokens than one of 1024, so no less is saved."""
    model, _, state, frozen, mesh = case
    config = override(TrainConfig(model=model), {"data.batch_size": 24})
    small = model, abstract_batch(config, 512, mesh), state, frozen, mesh
    for gib in range(24, 64):
        ranks = [
            list(remat_choice.SAVED).index(chosen(one, gib, monkeypatch)) for one in (case, small)
        ]
        assert ranks == sorted(ranks)


def test_a_frozen_base_takes_memory_too(case, monkeypatch):
    """A frozen part as large as the state leaves less memory to save intermediates."""
    model, batch, state, _, mesh = case
    monkeypatch.setattr(remat_choice, "get_memory_bytes", lambda device: 64 * GIB)
    assert resolve_remat(model, batch, state, state, mesh).remat != "attention_qkv_mlp"


def test_a_named_policy_stays(case):
    config = step1x_edit_v1_1()
    assert resolve_remat(config, *case[1:]) is config


def test_bytes_of_the_release():
    """Per token: 19 double blocks of 11 and 38 single blocks of 10 times 3072 bfloat16."""
    config = step1x_edit_v1_1()
    found = saved_bytes(config, "attention_qkv_mlp", 8832)
    assert found == 8832 * 3072 * 2 * (19 * 11 + 38 * 10)
    assert jax.devices()[0].platform == "cpu"
