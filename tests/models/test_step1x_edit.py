"""Axes, padding and precision of the model; tests/test_golden.py checks its numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from step1x_jax.kernels.attention import working_length
from step1x_jax.models.config import tiny
from step1x_jax.models.connector import masked_attention
from step1x_jax.models.embeddings import pack, rope_table
from step1x_jax.models.layers import scan_blocks
from step1x_jax.models.step1x_edit import Step1XEdit, abstract_model, token_positions
from step1x_jax.models.text_tokens import text_bucket
from step1x_jax.overrides import override
from step1x_jax.weights.layouts.official import flatten_params
from tests.golden import (
    VECTORS,
    forward_rows,
    lengths_of,
    load_for_case,
    nchw,
    nhwc,
    read_case,
    training_rows,
)


def inputs(config, batch=2, text_length=None, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(batch, text_length or config.text_length, config.connector_in_channels))
    return (
        jnp.float32(rng.normal(size=(batch, 4, 6, 16))),
        jnp.float32(rng.normal(size=(batch, 4, 6, 16))),
        jnp.float32(text),
        jnp.full(batch, text.shape[1]),
        jnp.float32(rng.uniform(size=batch)),
    )


def random_model(**changes):
    """Returns a model with all parameters random, including gates and the last layer."""
    config = dataclasses.replace(tiny(), **changes)
    graph, shapes = abstract_model(config)
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.float32(0.3 * rng.normal(size=x.shape))  # noqa: E731
    return nnx.merge(graph, jax.tree.map(draw, shapes))


velocity = nnx.jit(Step1XEdit.__call__)
image_velocity = nnx.jit(Step1XEdit.image_velocity)


def test_every_parameter_has_its_logical_axes():
    """Checks flax: stacking must keep the names and prepend "layers"."""
    leaves = flatten_params(abstract_model(tiny())[1])
    axes = {path: leaf.get_metadata()["out_sharding"] for path, leaf in leaves.items()}
    for path, leaf in leaves.items():
        assert len(axes[path]) == leaf.ndim, path
        stacked = "blocks" in path
        assert (axes[path][0] == "layers") == stacked, path
    assert axes["transformer.single_blocks.attn.q.kernel"] == ("layers", "embed", "heads")


@pytest.mark.slow
def test_masked_padding_equals_trimmed_text():
    """With attend_to_padding=False, padded and trimmed text give the same velocity."""
    model = random_model(attend_to_padding=False)
    latents, reference, text, _, t = inputs(model.config)
    short = velocity(model, latents, reference, text[:, :5], jnp.full(2, 5), t)
    padded = velocity(model, latents, reference, text.at[:, 5:].set(0), jnp.full(2, 5), t)
    np.testing.assert_allclose(padded, short, atol=1e-4 * np.abs(short).max())  # float32


def test_the_releases_attend_to_padding():
    model, unpadded = random_model(), random_model(text_length=5)
    latents, reference, text, _, t = inputs(model.config)
    short = velocity(unpadded, latents, reference, text[:, :5], jnp.full(2, 5), t)
    padded = velocity(model, latents, reference, text.at[:, 5:].set(0), jnp.full(2, 5), t)
    assert np.abs(padded - short).max() > 1e-2 * np.abs(short).max()


def published_velocity(model, latents, reference, text, lengths, t):
    """Computes the velocities as published: every padded token by itself."""
    image = jnp.concatenate([pack(latents), pack(reference)], axis=1)
    tokens, vector = model.connector(text, lengths, t)
    sizes = [x.shape[1:3] for x in (latents, reference)]
    ids = token_positions(model.config.version, sizes, text.shape[1])
    rope = jnp.asarray(rope_table(ids, model.config.axes_dim, model.config.theta))
    everything = jnp.full(len(text), len(ids))
    return model.transformer(image, tokens, vector, t, rope, everything, None)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("length", [6, 7, 8])
def test_one_padded_token_stands_for_all(length, remat):
    """Values, and the gradients of all parameters and of the text, whose padding has the sum."""
    model = random_model(remat=remat)
    latents, reference, text, _, t = inputs(model.config)
    lengths = jnp.array([5, 2])
    text = jnp.where((jnp.arange(8) < lengths[:, None])[..., None], text, 0)
    graph, params = nnx.split(model)
    weights = jax.random.normal(jax.random.key(0), (2, 12, 64))

    def run(compute, text):
        def loss(params, text):
            out = compute(nnx.merge(graph, params), latents, reference, text, lengths, t)
            return jnp.sum(out * weights), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
            params, text
        )
        return out, *gradients

    want, want_params, want_text = run(published_velocity, text)
    got, got_params, got_text = run(Step1XEdit.image_velocity, text[:, :length])
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want_params))
    for ours, theirs in zip(*map(jax.tree.leaves, (got_params, want_params)), strict=True):
        tolerance = 1e-4 * np.abs(theirs).max() + 1e-7 * largest  # biases of keys have none
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    for ours, theirs, n in zip(got_text, want_text, lengths, strict=True):
        tolerance = 1e-4 * np.abs(theirs).max()
        np.testing.assert_allclose(ours[:n], theirs[:n], atol=tolerance)
        np.testing.assert_allclose(ours[n:].sum(0), theirs[n:].sum(0), atol=tolerance)


@pytest.mark.slow
def test_golden_numbers_hold_for_cut_text():
    """Published with 20 text tokens, of which the longer text has 13."""
    case = read_case(VECTORS / "dit_v1_0")
    model = load_for_case(VECTORS / "dit_v1_0", case)
    for name in ("text_embeddings", "text_mask"):
        case[name] = case[name][:, :14]
    with jax.default_matmul_precision("highest"):
        rows = [*forward_rows(model, case, case), *training_rows(model, case)]
    assert not [row for row in rows if not row.ok]


def test_more_text_than_the_model_has_is_refused():
    model = random_model()
    latents, reference, text, lengths, t = inputs(model.config, text_length=9)
    with pytest.raises(ValueError, match="9 text tokens, model"):
        velocity(model, latents, reference, text, lengths, t)


def test_text_is_cut_to_few_lengths_with_room_for_padding():
    assert text_bucket([5], 640) == 64
    assert text_bucket([63, 5], 640) == 64
    assert text_bucket([5, 64], 640) == 128  # not 64: one padded token has to be there
    assert text_bucket(np.array([639]), 640) == text_bucket(np.array([640]), 640) == 640
    assert text_bucket([5], 8) == 8
    assert {text_bucket([n], 640) for n in range(1, 641)} == set(range(64, 641, 64))


def test_padded_queries_of_the_connector_take_the_value_of_key_0():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
    out = masked_attention(q, k, v, jnp.array([3, 5]), 4)
    np.testing.assert_array_equal(out[0, 3:], np.broadcast_to(v[0, :1], (2, 4)))
    assert np.abs(out[0, :3] - v[0, :1]).max() > 1e-3


@pytest.mark.slow
def test_examples_of_a_batch_are_independent():
    model = random_model()
    arguments = inputs(model.config)
    lengths = jnp.array([3, 8])
    batch = velocity(model, *arguments[:3], lengths, arguments[4])
    for i in range(2):
        one = [x[i : i + 1] for x in arguments]
        single = velocity(model, *one[:3], lengths[i : i + 1], one[4])
        np.testing.assert_allclose(batch[i : i + 1], single, atol=1e-4 * np.abs(single).max())


def test_v1_1_shifts_reference_positions_and_v1_0_does_not():
    """With equal images, v1.0 cannot distinguish noise tokens from reference tokens."""
    for version, same in (("v1.0", True), ("v1.1", False)):
        model = random_model(version=version)
        latents, _, text, lengths, t = inputs(model.config)
        tokens = image_velocity(model, latents, latents, text, lengths, t)
        noise, reference = jnp.split(tokens, 2, axis=1)
        difference = np.abs(noise - reference).max() / np.abs(noise).max()
        assert (difference < 1e-4) == same


def test_scan_blocks_runs_the_blocks_in_order():
    model = random_model(depth_single_blocks=3)
    blocks = model.transformer.single_blocks
    x = jax.random.normal(jax.random.key(0), (1, 6, 32))
    mods, rope = jax.random.normal(jax.random.key(1), (3, 3, 1, 32)), jnp.ones((2, 6, 16))
    graph, state = nnx.split(blocks)
    one = jax.jit(lambda params, x, mod: nnx.merge(graph, params)(x, rope, None, None, mod))
    want = x
    for i in range(3):
        want = one(jax.tree.map(lambda p, i=i: p[i], state), want, mods[i])
    for remat in ("none", "full"):
        got = nnx.jit(
            lambda b, x, r=remat: scan_blocks(b, x, rope, None, None, remat=r, per_block=mods)
        )(blocks, x)
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("attend_to_padding", [True, False])
def test_padding_for_kernels_does_not_change_the_result(attend_to_padding):
    """Plain attention needs no padding; the kernel pads to 128 tokens here."""
    config = dataclasses.replace(tiny(), attend_to_padding=attend_to_padding)
    latents, reference, text, _, t = inputs(config)
    data = latents, reference, text.at[0, 3:].set(0), jnp.array([3, 8]), t
    velocities = []
    for name in ("xla", "pallas_tpu"):
        config = override(config, {"attention": name})
        model = random_model(attend_to_padding=attend_to_padding, attention=name)
        length = sum(x.shape[1] * x.shape[2] // 4 for x in data[:2]) + data[2].shape[1]
        assert working_length(length, 16, "float32", name) == (length if name == "xla" else 128)
        velocities.append(velocity(model, *data))
    np.testing.assert_allclose(*velocities, atol=1e-4 * np.abs(velocities[0]).max())


@pytest.mark.parametrize("name", ["dit_v1_0", "dit_v1_1"])
def test_bfloat16_stays_close_to_float32(name):
    """bfloat16 has 8 bits: each of about 40 roundings adds 2^-9 of the values' size.

    Relative to the velocity's norm the total error is below 3 %.
    """
    case = read_case(VECTORS / name)
    model = load_for_case(VECTORS / name, case, dtype="bfloat16")
    ours = velocity(
        model,
        nhwc(case["latents"]),
        nhwc(case["ref_latents"]),
        jnp.asarray(case["text_embeddings"]),
        lengths_of(case["text_mask"]),
        jnp.asarray(case["timesteps"]),
    )
    assert ours.dtype == jnp.float32
    error = np.linalg.norm(nchw(ours) - case["velocity"]) / np.linalg.norm(case["velocity"])
    assert 1e-4 < error < 3e-2


def test_masking_without_padding_changes_nothing():
    """The mask hides no image tokens. The golden numbers cover the path without a mask."""
    masked, free = (random_model(attend_to_padding=value) for value in (False, True))
    arguments = inputs(free.config)  # all text is valid
    want = velocity(free, *arguments)
    np.testing.assert_allclose(
        velocity(masked, *arguments), want, atol=1e-4 * np.abs(want).max()
    )  # float32
