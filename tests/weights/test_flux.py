"""FLUX.1's weights as initialization: what is kept, drawn and unused."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from step1x_jax.errors import UserError
from step1x_jax.models.step1x_edit import Step1XEdit
from step1x_jax.weights.flux import FluxStart, start_from_flux
from step1x_jax.weights.formats import FORMATS
from step1x_jax.weights.layouts.diffusers import transformer_layout
from step1x_jax.weights.layouts.official import model_table
from step1x_jax.weights.load import load_model
from step1x_jax.weights.open import open_weights
from step1x_jax.weights.readers import InMemory, Relayout
from step1x_jax.weights.save import write_official
from tests.golden import VECTORS
from tests.weights.models import published

GOLDEN = VECTORS / "dit_v1_1"
GUIDANCE = {  # what FLUX.1-dev has besides
    f"guidance_in.{layer}.{kind}": shape
    for layer, c_in in (("in_layer", 256), ("out_layer", 64))
    for kind, shape in (("weight", (64, c_in)), ("bias", (64,)))
}


def flux(folder, *, diffusers, guidance=True):
    """The golden DiT as FLUX.1's, in either format, with small sizes beside it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {n: x for n, x in load_file(GOLDEN / "weights.safetensors").items()
              if not n.startswith("connector.")}  # fmt: skip
    if guidance:
        arrays |= {n: rng.normal(size=s).astype(np.float32) for n, s in GUIDANCE.items()}
    sizes = json.loads((GOLDEN / "config.json").read_text())
    if diffusers:
        held = InMemory(arrays)
        theirs = Relayout(held, transformer_layout(held.shapes, 64, flux=True))
        arrays = {name: np.ascontiguousarray(theirs.read(name)) for name in theirs.shapes}
        assert "time_text_embed.text_embedder.linear_1.weight" in arrays
        assert ("time_text_embed.guidance_embedder.linear_2.bias" in arrays) == guidance
        sizes = {"_class_name": "FluxTransformer2DModel", "_step1x_jax": sizes}
    save_file(arrays, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))
    return open_weights(folder)


def start(weights, **how):
    """Completes FLUX.1 to a model as launch.convert does."""
    return start_from_flux(weights.path, weights.tensors, weights.config, FluxStart(**how))


@pytest.mark.slow
@pytest.mark.parametrize("diffusers", [False, True])
def test_the_dit_is_taken_and_the_connector_drawn(tmp_path, diffusers):
    weights = flux(tmp_path / "flux", diffusers=diffusers)
    assert weights.format is FORMATS["flux_diffusers" if diffusers else "flux"]
    begun = start(weights, version="v1.0", seed=3)
    assert set(begun.unused) == set(GUIDANCE)
    assert all(name.startswith("connector.") for name in begun.drawn)
    said = []
    opened = open_weights(tmp_path / "flux", flux=FluxStart("v1.0", 3), say=said.append)
    assert said[0].startswith("drawn with seed 3: connector.")
    write_official(tmp_path / "start.safetensors", {"transformer": opened})

    model = load_model(tmp_path / "start.safetensors")
    assert model.config.version == "v1.0"
    read = published(model.config, nnx.state(model)).read
    # the connector is that of a new model with this seed, which here is drawn without jit
    new = Step1XEdit(dataclasses.replace(model.config), rngs=nnx.Rngs(3))
    drawn = published(model.config, nnx.state(new)).read
    golden = load_file(GOLDEN / "weights.safetensors")
    for name in model_table(model.config):
        is_connector = name.startswith("connector.")
        want = drawn(name) if is_connector else golden[name]
        rtol = 1e-6 if is_connector else 0
        np.testing.assert_allclose(read(name), want, rtol=rtol, err_msg=name)
    again = start(weights, version="v1.0", seed=3).tensors
    np.testing.assert_array_equal(again.read(begun.drawn[0]), read(begun.drawn[0]))
    gates = "connector.S.individual_token_refiner.blocks.0.adaLN_modulation.1"
    assert not read(f"{gates}.weight").any()
    assert not read(f"{gates}.bias").any()
    assert read("connector.scale_factor") == np.float32(-0.91)


def test_the_text_layers_may_be_drawn(tmp_path):
    weights = flux(tmp_path / "flux", diffusers=False, guidance=False)
    taken = start(weights)
    drawn = start(weights, fresh_text=True)
    text = {n for n in load_file(GOLDEN / "weights.safetensors")
            if n.startswith(("txt_in.", "vector_in."))}  # fmt: skip
    assert set(drawn.drawn) - set(taken.drawn) == text
    assert taken.unused == []
    golden = load_file(GOLDEN / "weights.safetensors")
    name = "txt_in.weight"
    np.testing.assert_array_equal(taken.tensors.read(name), golden[name])
    fresh = drawn.tensors.read(name)
    assert np.abs(fresh - golden[name]).max() > 0.01
    assert abs(float(fresh.std()) * 96**0.5 - 1) < 0.1  # variance 1 / fan-in; 6144 numbers


def test_a_file_of_part_of_flux_is_refused(tmp_path):
    flux(tmp_path / "flux", diffusers=False)
    path = tmp_path / "flux" / "weights.safetensors"
    arrays = load_file(path)
    del arrays["img_in.bias"]
    save_file(arrays, path)
    with pytest.raises(UserError, match=r"img_in\.bias is missing"):
        open_weights(path)
